//! The table of services, at the width of a terminal.

use super::*;
use crate::admin::types::balancing::AGENT;
use crate::model::endpoint::{Sign, Why};

/// Returns a backend with this last byte of its address that gets this share.
pub(crate) fn backend(last: u8, share: f64) -> Backend {
    Backend {
        address: [10, 0, 0, last].into(),
        port: 8080,
        workload: None,
        node: None,
        zone: None,
        priority: 0,
        health: EndpointHealth::Ready,
        weight: u32::from(share > 0.0),
        share,
        slow_start: false,
        panic: false,
        why: None,
        open: 3,
        picked: 12_345,
        failed: 0,
        reset: 0,
        retransmits: 0,
    }
}

fn port(number: u16, backends: Vec<Backend>) -> BalancedPort {
    BalancedPort {
        port: number,
        name: None,
        protocol: Protocol::Tcp,
        node_port: None,
        carried_by: KERNEL.into(),
        algorithm: "round-robin".into(),
        affinity_seconds: None,
        picks: 0,
        refused: 0,
        panic: false,
        backends,
    }
}

fn service(name: &str, ports: Vec<BalancedPort>) -> BalancedService {
    BalancedService {
        namespace: "shop".into(),
        name: name.into(),
        kind: CLUSTER_IP.into(),
        origin: "a.yaml".into(),
        addresses: vec![[10, 96, 0, 1].into()],
        external_addresses: Vec::new(),
        balanced: true,
        why_not: None,
        ports,
    }
}

fn ejected(last: u8) -> Backend {
    Backend {
        health: EndpointHealth::Ejected,
        failed: 7,
        why: Some(Why::Ejected {
            sign: Sign::ConnectFailures,
            for_s: 12,
        }),
        ..backend(last, 0.0)
    }
}

#[test]
fn a_table_fits_a_terminal() {
    let dns = BalancedPort {
        protocol: Protocol::Udp,
        refused: 5,
        ..port(53, Vec::new())
    };
    let services = [
        service(
            "cart",
            vec![port(
                80,
                vec![backend(1, 0.965), ejected(2), backend(3, 0.035)],
            )],
        ),
        service("name", vec![dns]),
        service(
            "shop",
            vec![BalancedPort {
                carried_by: AGENT.into(),
                ..port(80, vec![backend(4, 1.0)])
            }],
        ),
        BalancedService {
            kind: "Headless".into(),
            addresses: Vec::new(),
            balanced: false,
            why_not: Some("headless: clients get the endpoints' addresses".into()),
            ..service("db", Vec::new())
        },
    ];
    let expected = "\
SERVICE    PORT      BACKEND        HEALTH        SHARE  FAILED  WHY
shop/cart  80        10.0.0.1:8080  ready           96%       0
                     10.0.0.2:8080  ejected          0%       7  ejected for 12…
                     10.0.0.3:8080  ready          3.5%       0
shop/name  53/udp                   no backend                   5 refused
shop/shop  80 agent  10.0.0.4:8080  ready          100%       0
shop/db                             not balanced                 headless: clie…
";
    let text = render(&services, &Screen::plain());
    for line in text.lines() {
        assert!(line.chars().count() <= 80, "{text}");
    }
    assert_eq!(text, expected);
    assert_eq!(exit(&services), Exit::Bad);
    assert_eq!(exit(&services[3..]), Exit::Fine, "nobody dials it here");
    assert_eq!(render(&[], &Screen::plain()), "there are no services\n");
}

#[test]
fn without_bounds_everything_is_shown() {
    let slow = Backend {
        slow_start: true,
        panic: true,
        ..backend(1, 1.0)
    };
    let unbalanced = BalancedService {
        balanced: false,
        why_not: Some("port 80/TCP: no room".into()),
        ..service("cart", vec![port(80, vec![slow])])
    };
    let wide = Screen {
        width: None,
        ..Screen::plain()
    };
    let expected = "\
SERVICE    ADDRESS    PORT  ALGORITHM    BACKEND        HEALTH        SHARE  OPEN  PICKED  FAILED  WHY
shop/cart  10.96.0.1                                    not in force                               port 80/TCP: no room
                      80    round-robin  10.0.0.1:8080  ready          100%     3   12.3k       0  \
panic: too few are healthy, so all get connections; slow start: its share grows
";
    assert_eq!(render(std::slice::from_ref(&unbalanced), &wide), expected);
    assert_eq!(exit(&[unbalanced]), Exit::Fine);
}

#[test]
fn colours_are_for_terminals() {
    let services = [service("cart", vec![port(80, vec![ejected(2)])])];
    let colored = Screen {
        color: true,
        ..Screen::plain()
    };
    let text = render(&services, &colored);
    assert!(text.contains("\x1b[31mejected\x1b[0m"), "{text}");
    assert!(!render(&services, &Screen::plain()).contains('\x1b'));
}
