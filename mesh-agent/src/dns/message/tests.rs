//! Tests of `message`.

use hickory_proto::rr::RData;
use proptest::prelude::*;

use super::*;
use crate::dns::zone::tests::shop;

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn with_edns(mut message: Message, payload: u16, version: u8) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(payload);
    edns.set_version(version);
    message.set_edns(edns);
    message
}

fn ask(message: &Message) -> Message {
    ask_bytes(&message.to_vec().unwrap()).unwrap()
}

fn ask_bytes(bytes: &[u8]) -> Option<Message> {
    match read(bytes, Transport::Udp, &shop()) {
        Step::Reply { bytes, .. } => Some(Message::from_vec(&bytes).unwrap()),
        Step::Silence => None,
        other @ (Step::Forward { .. } | Step::Follow { .. }) => panic!("{other:?}"),
    }
}

#[test]
fn an_answer_is_the_query_s() {
    let asked = query("CART.shop.svc.cluster.local.", RecordType::A);
    let answer = ask(&asked);
    assert_eq!(answer.metadata.id, 4711);
    assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
    assert!(answer.metadata.authoritative && answer.metadata.recursion_desired);
    assert!(answer.metadata.recursion_available && !answer.metadata.truncation);
    assert!(answer.queries[0].name().eq_case(asked.queries[0].name()));
    assert_eq!(answer.answers.len(), 1);
    assert_eq!(answer.edns, None, "only those who speak it get it");
    let answer = ask(&with_edns(asked, 4096, 0));
    assert_eq!(answer.edns.unwrap().max_payload(), limits::UDP_BYTES);
}

#[test]
fn that_there_is_nothing_comes_with_the_zone_s_word() {
    for (name, kind, code) in [
        (
            "cart.shop.svc.cluster.local.",
            RecordType::MX,
            ResponseCode::NoError,
        ),
        (
            "x.cart.shop.svc.cluster.local.",
            RecordType::A,
            ResponseCode::NXDomain,
        ),
    ] {
        let answer = ask(&query(name, kind));
        assert_eq!(answer.metadata.response_code, code);
        assert!(answer.answers.is_empty());
        let RData::SOA(soa) = &answer.authorities[0].data else {
            panic!("no SOA");
        };
        assert_eq!(soa.minimum, limits::TTL_SECONDS);
    }
}

#[test]
fn a_name_of_the_domain_that_nobody_here_knows_is_for_somebody_else() {
    let asked = query("x.shop.svc.cluster.local.", RecordType::A);
    let step = read(&asked.to_vec().unwrap(), Transport::Udp, &shop());
    let Step::Forward {
        none: Some(none), ..
    } = step
    else {
        panic!("{step:?}");
    };
    // Unless nobody does.
    let none = Message::from_vec(&none).unwrap();
    assert_eq!(none.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(none.metadata.id, 4711);
    assert_eq!(none.authorities[0].record_type(), RecordType::SOA);
    let lost = query("lost.shop.svc.cluster.local.", RecordType::A);
    let step = read(&lost.to_vec().unwrap(), Transport::Udp, &shop());
    let Step::Follow {
        aliases,
        target,
        none: Some(none),
        ..
    } = step
    else {
        panic!("{step:?}");
    };
    assert_eq!(target.to_ascii(), "x.shop.svc.cluster.local.");
    let none = Message::from_vec(&none).unwrap();
    assert_eq!(none.answers, aliases);
}

#[test]
fn srv_brings_the_addresses_along() {
    let answer = ask(&query(
        "_http._tcp.cart.shop.svc.cluster.local.",
        RecordType::SRV,
    ));
    assert_eq!((answer.answers.len(), answer.additionals.len()), (1, 2));
}

#[test]
fn aliases_are_followed_within_the_domain_and_handed_on_beyond() {
    let answer = ask(&query("near.shop.svc.cluster.local.", RecordType::A));
    let kinds: Vec<_> = answer.answers.iter().map(Record::record_type).collect();
    assert_eq!(kinds, [RecordType::CNAME, RecordType::A]);
    let ring = ask(&query("ring.shop.svc.cluster.local.", RecordType::A));
    assert_eq!(ring.metadata.response_code, ResponseCode::ServFail);
    let far = query("far.shop.svc.cluster.local.", RecordType::A);
    let step = read(&far.to_vec().unwrap(), Transport::Udp, &shop());
    let Step::Follow {
        asked,
        aliases,
        target,
        none: None,
    } = step
    else {
        panic!("{step:?}");
    };
    assert_eq!(target.to_ascii(), "db.example.org.");
    let mut upstream = Message::response(0, OpCode::Query);
    let data = RData::A("192.0.2.1".parse().unwrap());
    upstream.add_answer(Record::from_rdata(target, 60, data));
    let joined = asked.join(aliases, Some(&upstream.to_vec().unwrap()));
    let joined = Message::from_vec(&joined).unwrap();
    assert_eq!((joined.metadata.id, joined.answers.len()), (4711, 2));
}

#[test]
fn what_nobody_gets_is_refused() {
    for kind in [RecordType::ANY, RecordType::AXFR, RecordType::IXFR] {
        for name in ["cluster.local.", "example.org."] {
            let answer = ask(&query(name, kind));
            assert_eq!(
                answer.metadata.response_code,
                ResponseCode::Refused,
                "{kind}"
            );
        }
    }
    let mut chaos = query("version.bind.", RecordType::TXT);
    chaos.queries[0].set_query_class(DNSClass::CH);
    assert_eq!(ask(&chaos).metadata.response_code, ResponseCode::Refused);
    let newer = with_edns(query("cluster.local.", RecordType::A), 1232, 1);
    // 16 has two names, by where it stands.
    let code = ask(&newer).metadata.response_code;
    assert_eq!(u16::from(code), u16::from(ResponseCode::BADVERS));
    let mut notify = query("cluster.local.", RecordType::A);
    notify.metadata.op_code = OpCode::Notify;
    assert_eq!(ask(&notify).metadata.response_code, ResponseCode::NotImp);
    let mut two = query("cluster.local.", RecordType::A);
    two.add_query(two.queries[0].clone());
    assert_eq!(ask(&two).metadata.response_code, ResponseCode::FormErr);
    let mut none = query("cluster.local.", RecordType::A);
    none.queries.clear();
    assert_eq!(ask(&none).metadata.response_code, ResponseCode::FormErr);
}

#[test]
fn answers_are_never_answered() {
    let mut answer = query("cluster.local.", RecordType::A);
    answer.metadata.message_type = MessageType::Response;
    assert_eq!(ask_bytes(&answer.to_vec().unwrap()), None);
    assert_eq!(ask_bytes(&[0; 11]), None);
}

#[test]
fn a_name_that_points_to_itself_is_an_error() {
    let mut bytes = query(".", RecordType::A).to_vec().unwrap();
    // The name becomes a pointer to where it is itself, and to one that points back.
    bytes.splice(12..13, [0xc0, 12]);
    assert_eq!(
        ask_bytes(&bytes).unwrap().metadata.response_code,
        ResponseCode::FormErr
    );
    bytes.splice(12..14, [0xc0, 14, 0xc0, 12]);
    assert_eq!(
        ask_bytes(&bytes).unwrap().metadata.response_code,
        ResponseCode::FormErr
    );
}

#[test]
fn what_does_not_fit_is_cut_with_a_hint() {
    let plain = query("cart.shop.svc.cluster.local.", RecordType::A);
    let Step::Reply { .. } = read(&plain.to_vec().unwrap(), Transport::Udp, &shop()) else {
        panic!("no reply");
    };
    let asked = Asked {
        id: 1,
        question: plain.queries[0].clone(),
        recursion: true,
        checking_disabled: false,
        edns: None,
        transport: Transport::Udp,
    };
    let mut long = asked.answer(ResponseCode::NoError);
    for last in 0..60 {
        let data = RData::A(std::net::Ipv4Addr::new(10, 0, 0, last).into());
        long.add_answer(Record::from_rdata(plain.queries[0].name().clone(), 5, data));
    }
    let cut = Message::from_vec(&asked.fit(long.clone())).unwrap();
    assert!(cut.metadata.truncation && cut.answers.is_empty());
    let edns = Asked {
        edns: Some((65_535, false)),
        ..asked.clone()
    };
    assert!(edns.fit(long.clone()).len() > 512);
    let tcp = Asked {
        transport: Transport::Tcp,
        ..asked
    };
    let whole = Message::from_vec(&tcp.fit(long)).unwrap();
    assert_eq!(whole.answers.len(), 60);
}

#[test]
fn an_upstream_s_answer_becomes_the_client_s() {
    let asked = query("ExAmPlE.org.", RecordType::A);
    let step = read(&asked.to_vec().unwrap(), Transport::Udp, &shop());
    let Step::Forward { asked, none: None } = step else {
        panic!("{step:?}");
    };
    let sent = asked
        .query(99, &asked.question.name().to_lowercase())
        .unwrap();
    let mut upstream = Message::from_vec(&sent).unwrap();
    upstream.metadata.message_type = MessageType::Response;
    let bytes = upstream.to_vec().unwrap();
    assert!(answers(&bytes, &sent));
    let adopted = Message::from_vec(&asked.adopt(&bytes).unwrap()).unwrap();
    assert_eq!(adopted.metadata.id, 4711);
    assert!(adopted.queries[0].name().eq_case(asked.question.name()));
    // Another number, another question, or no answer at all.
    let mut other = upstream.clone();
    other.metadata.id = 98;
    assert!(!answers(&other.to_vec().unwrap(), &sent));
    assert!(!answers(&sent, &sent));
    let mut other = upstream.clone();
    other.queries[0].set_name(Name::from_ascii("example.net.").unwrap());
    let other = other.to_vec().unwrap();
    assert!(!answers(&other, &sent));
    assert_eq!(asked.adopt(&other), None);
    assert_eq!(asked.adopt(&bytes[..11]), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn garbage_does_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let _step = read(&bytes, Transport::Udp, &shop());
        let _is_answer = answers(&bytes, &bytes);
    }

    #[test]
    fn damage_does_no_harm(at in 2usize..60, to in any::<u8>(), cut in 0usize..80) {
        let mut bytes = with_edns(query("_http._tcp.db.shop.svc.cluster.local.", RecordType::SRV), 1232, 0)
            .to_vec()
            .unwrap();
        if let Some(byte) = bytes.get_mut(at) {
            *byte = to;
        }
        bytes.truncate(cut.max(bytes.len() / 2));
        if let Step::Reply { bytes, .. } = read(&bytes, Transport::Udp, &shop()) {
            prop_assert!(bytes.len() <= usize::from(limits::UDP_BYTES));
            prop_assert_eq!(&bytes[..2], &4711u16.to_be_bytes());
        }
    }
}
