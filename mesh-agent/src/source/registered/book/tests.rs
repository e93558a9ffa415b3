//! Tests of `book`.

use super::*;
use crate::source::registered::registration::tests::registration;
use crate::source::registered::state::State;

fn name(name: &str) -> ServiceName {
    ServiceName {
        namespace: "shop".into(),
        name: name.into(),
    }
}

fn book() -> Book {
    Book::new(ServiceRange::default())
}

fn second(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn an_instance_comes_expires_comes_back_and_is_removed() {
    let mut book = book();
    let start = Instant::now();
    let cart = name("cart");
    let first = book
        .register(&cart, "a", registration("10.0.0.1", 80), start)
        .unwrap();
    assert!(!first.renewed);
    let ready = |book: &Book| book.services()[&cart].ports[0].endpoints[0].ready;
    assert!(ready(&book));
    assert_eq!(book.expire(start + second(29)), Some(start + second(30)));
    assert!(ready(&book));
    book.expire(start + second(30));
    assert!(!ready(&book), "its time is over");
    let back = start + second(200);
    let renewed = book.heartbeat(&cart, "a", back).unwrap();
    assert!(ready(&book) && renewed.renewed);
    assert_eq!(renewed.addresses, first.addresses);
    // Away for good: 30 s, and ten times that.
    book.expire(back + second(30));
    book.expire(back + second(329));
    assert!(book.services().contains_key(&cart));
    book.expire(back + second(330));
    assert!(book.services().is_empty());
    let gone = book.heartbeat(&cart, "a", back + second(331));
    assert!(matches!(gone, Err(RegistryError::NotFound(_))), "{gone:?}");
}

#[test]
fn a_service_gets_an_address_of_each_family_that_it_needs() {
    let mut book = book();
    let now = Instant::now();
    let cart = name("cart");
    let v4 = book.register(&cart, "a", registration("10.0.0.1", 80), now);
    let v4 = v4.unwrap().addresses;
    assert!(v4.len() == 1 && v4[0].is_ipv4(), "{v4:?}");
    let both = book.register(&cart, "b", registration("fd00::1", 80), now);
    let both = both.unwrap().addresses;
    assert_eq!((both.len(), both[0]), (2, v4[0]));
    let service = &book.services()[&cart];
    assert_eq!(service.addresses, both);
    assert_eq!(
        service.ports[0].endpoints.len(),
        2,
        "one port, two instances"
    );
    let only: ServiceRange = "240.1.0.0/16".parse().unwrap();
    let mut book = Book::new(only);
    let error = book.register(&cart, "b", registration("fd00::1", 80), now);
    assert!(
        matches!(&error, Err(RegistryError::Invalid(error)) if error.contains("--service-range")),
        "{error:?}"
    );
}

#[test]
fn an_address_rests_before_it_is_anothers_and_waits_for_its_own() {
    let range: ServiceRange = "240.1.0.0/29".parse().unwrap();
    let mut book = Book::new(range);
    let start = Instant::now();
    let register = |book: &mut Book, service: &str, now| {
        book.register(&name(service), "a", registration("10.0.0.1", 80), now)
    };
    let mut given = Vec::new();
    for number in 0..6 {
        given.extend(
            register(&mut book, &format!("s{number}"), start)
                .unwrap()
                .addresses,
        );
    }
    let distinct: HashSet<_> = given.iter().collect();
    assert_eq!(distinct.len(), 6, "{given:?}");
    let full = register(&mut book, "more", start).unwrap_err();
    let RegistryError::Full(words) = &full else {
        panic!("{full:?}")
    };
    assert!(
        words.contains("240.1.0.0/29") && words.contains("--service-range"),
        "{words}"
    );
    book.deregister(&name("s3"), "a", start).unwrap();
    assert!(register(&mut book, "more", start).is_err(), "it rests");
    let again = register(&mut book, "s3", start).unwrap().addresses;
    assert_eq!(again, [given[3]], "it waited for its own service");
    book.deregister(&name("s3"), "a", start).unwrap();
    let later = start + limits::REST;
    book.expire(later);
    let more = register(&mut book, "more", later);
    assert_eq!(more.unwrap().addresses.len(), 1);
}

#[test]
fn manifests_come_first() {
    let mut book = book();
    let now = Instant::now();
    let cart = name("cart");
    let free = ServiceRange::default()
        .of_family("10.0.0.1".parse().unwrap())
        .unwrap()
        .allot(&name("other"), |_| false);
    let service = Service {
        addresses: free.into_iter().collect(),
        origin: "shop.yaml".into(),
        ..service::empty(&cart)
    };
    let manifests = Services::from([(cart.clone(), Arc::new(service))]);
    book.set_manifests(Arc::new(manifests));
    let error = book.register(&cart, "a", registration("10.0.0.1", 80), now);
    assert!(
        matches!(&error, Err(RegistryError::Conflict(words)) if words.contains("shop.yaml")),
        "{error:?}"
    );
    let other = book.register(&name("other"), "a", registration("10.0.0.1", 80), now);
    assert_ne!(
        other.unwrap().addresses.first().copied(),
        free,
        "a manifest has that one"
    );
}

#[test]
fn ports_mean_the_same_to_all_instances() {
    let mut book = book();
    let now = Instant::now();
    let cart = name("cart");
    let mut named = registration("10.0.0.1", 8080);
    named.ports[0].name = Some("http".into());
    named.ports[0].service_port = Some(80);
    book.register(&cart, "a", named.clone(), now).unwrap();
    // Another port behind the same one of the service.
    let mut second = named.clone();
    second.address = "10.0.0.2".parse().unwrap();
    second.ports[0].number = 9090;
    book.register(&cart, "b", second.clone(), now).unwrap();
    let services = book.services();
    let port = &services[&cart].ports[0];
    let dialled: Vec<u16> = port.endpoints.iter().map(|e| e.port).collect();
    assert_eq!((port.number, dialled), (80, vec![8080, 9090]));
    let mut other = second.clone();
    other.ports[0].name = Some("web".into());
    let error = book.register(&cart, "c", other.clone(), now).unwrap_err();
    assert!(matches!(error, RegistryError::Conflict(_)), "{error}");
    other.ports[0].name = Some("http".into());
    other.ports[0].service_port = Some(81);
    let error = book.register(&cart, "c", other.clone(), now).unwrap_err();
    assert!(matches!(error, RegistryError::Conflict(_)), "{error}");
    // It may change its own mind.
    book.deregister(&cart, "a", now).unwrap();
    book.register(&cart, "b", other, now).unwrap();
}

#[test]
fn a_program_that_was_started_again_replaces_itself() {
    let mut book = book();
    let now = Instant::now();
    let cart = name("cart");
    book.register(&cart, "old", registration("10.0.0.1", 80), now)
        .unwrap();
    book.register(&cart, "new", registration("10.0.0.1", 80), now)
        .unwrap();
    let ids: Vec<_> = book.entries[&cart].instances.keys().cloned().collect();
    assert_eq!(ids, ["new"]);
}

#[test]
fn a_sign_of_life_is_nothing_to_write_or_tell() {
    let mut book = book();
    let now = Instant::now();
    let cart = name("cart");
    book.register(&cart, "a", registration("10.0.0.1", 80), now)
        .unwrap();
    let before = (book.revision, book.version);
    book.heartbeat(&cart, "a", now + second(5)).unwrap();
    let renewed = book.register(&cart, "a", registration("10.0.0.1", 80), now + second(9));
    assert!(renewed.unwrap().renewed);
    assert_eq!((book.revision, book.version), before);
    assert_eq!(book.expire(now + second(9)), Some(now + second(39)));
}

#[test]
fn the_next_life_knows_everything_and_gives_everybody_time() {
    let mut book = book();
    let start = Instant::now();
    for service in ["cart", "gone"] {
        for (id, address) in [("a", "10.0.0.1"), ("b", "fd00::1")] {
            book.register(&name(service), id, registration(address, 80), start)
                .unwrap();
        }
    }
    for id in ["a", "b"] {
        book.deregister(&name("gone"), id, start).unwrap();
    }
    let late = start + second(30);
    book.heartbeat(&name("cart"), "a", late).unwrap();
    book.expire(late);
    let mut next = self::book();
    State::of(&book, late).restore(&mut next, late + second(1000));
    assert_eq!(next.services(), book.services(), "b is not ready in both");
    let rested = |book: &Book| book.resting[&name("gone")].0.clone();
    assert_eq!(rested(&next), rested(&book));
    next.expire(late + second(1029));
    assert_eq!(next.services(), book.services(), "a TTL of grace");
    next.expire(late + second(1030));
    assert!(!next.services()[&name("cart")].ports[0].endpoints[0].ready);
    // With another range the addresses are others.
    let mut moved = Book::new("240.7.0.0/16,fd99::/112".parse().unwrap());
    State::of(&book, late).restore(&mut moved, late);
    let moved = &moved.services()[&name("cart")].addresses;
    assert!(
        moved.len() == 2 && moved.iter().all(|a| !book.taken.contains(a)),
        "{moved:?}"
    );
}

#[test]
fn there_is_a_most() {
    let mut book = book();
    let now = Instant::now();
    for number in 0..limits::SERVICES {
        let [high, low] = u16::try_from(number).unwrap().to_be_bytes();
        let address = format!("10.0.{high}.{low}");
        let name = name(&format!("s{number}"));
        for id in 0..limits::INSTANCES / limits::SERVICES {
            let port = 80 + u16::try_from(id).unwrap();
            book.register(&name, &id.to_string(), registration(&address, port), now)
                .unwrap();
        }
    }
    let more = book.register(&name("more"), "a", registration("10.1.0.1", 80), now);
    assert!(matches!(more, Err(RegistryError::Full(_))), "{more:?}");
    let more = book.register(&name("s0"), "x", registration("10.1.0.1", 80), now);
    assert!(matches!(more, Err(RegistryError::Full(_))), "{more:?}");
}
