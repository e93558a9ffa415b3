//! Tests of `ctl::flows`.

use super::*;
use crate::telemetry::fake::{FakeKernel, NOW, record};

fn flow(change: impl FnOnce(&mut mesh_common::flow::FlowRecord)) -> Flow {
    let kernel = FakeKernel::default();
    let mut record = record(1);
    change(&mut record);
    Flow::of(&record, &NOW, &kernel)
}

fn elsewhere() -> Flow {
    flow(|record| {
        record.source_id = 0;
        record.from_source = 0;
        record.path = 0;
        record.reason = 1;
        record.close = 4;
        record.turns = 0;
        record.retransmits = 3;
        record.source = std::net::IpAddr::from([192, 168, 100, 200]).into();
    })
}

#[test]
fn a_table_of_flows_fits_80_columns() {
    let live = flow(|record| {
        record.end_ns = 0;
        record.close = 0;
    });
    let answer = Flows {
        schema: String::new(),
        flows: vec![flow(|_| ()), elsewhere(), live],
        omitted: 1_234,
    };
    let expected = "\
ENDED         SOURCE          DESTINATION     PATH        SENT  RECEIVED  LASTED
03:04:04.500  shop/web        shop/cart:8080  redirect  1.2 kB    3.4 MB    1.5s
03:04:04.500  192.16…100.200  shop/cart:8080  tcp       1.2 kB    3.4 MB    1.5s
live          shop/web        shop/cart:8080  redirect  1.2 kB    3.4 MB    2.0s
1,234 older flows match too; --limit shows more
";
    assert_eq!(render(&answer, &Screen::plain()), expected);
    let wide = Screen {
        width: None,
        ..Screen::plain()
    };
    let text = render(&answer, &wide);
    let line = "03:04:04.500  192.168.100.200  shop/cart:8080  tcp       1.2 kB    3.4 MB    1.5s                   the other end is not a workload on this node";
    assert!(text.lines().any(|l| l == line), "{text}");
}

#[test]
fn a_line_for_each_flow_says_it_all() {
    let screen = Screen::plain();
    assert_eq!(
        one_line(&flow(|_| ()), &screen),
        "03:04:04.500 shop/web:40000 -> shop/cart:8080 redirect, 1.2 kB out, 3.4 MB back in 1.5s, \
         connect 180us, answer 48us, closed by source\n"
    );
    assert_eq!(
        one_line(&elsewhere(), &screen),
        "03:04:04.500 192.168.100.200:40000 -> shop/cart:8080 tcp (the other end is not a workload on this node), \
         1.2 kB out, 3.4 MB back in 1.5s, 3 retransmits, reset by destination\n"
    );
}

#[test]
fn a_service_is_shown_with_the_backend_behind_it() {
    let dialled = flow(|record| {
        record.service = 1;
        record.destination_id = 0;
    });
    let line = one_line(&dialled, &Screen::plain());
    assert!(
        line.contains(" shop/web:40000 -> shop/cart:80 (10.0.0.2:8080) redirect, "),
        "{line}"
    );
    let names = flow(|record| record.protocol = mesh_common::service::UDP);
    let line = one_line(&names, &Screen::plain());
    assert!(line.contains(" -> shop/cart:8080/udp "), "{line}");
}

#[test]
fn no_flows_are_said_in_words() {
    let none = Flows {
        schema: String::new(),
        flows: vec![],
        omitted: 0,
    };
    assert_eq!(render(&none, &Screen::plain()), "no flows match\n");
}

#[test]
fn the_query_says_what_was_asked() {
    let args = FlowsArgs {
        follow: true,
        since: Some(std::time::Duration::from_secs(90)),
        workload: "shop/cart".parse().ok(),
        service: "shop/names".parse().ok(),
        limit: 7,
        ..FlowsArgs::default()
    };
    assert_eq!(
        query(&args).unwrap(),
        "workload=shop%2Fcart&service=shop%2Fnames&since=90000ms&limit=7&follow=true"
    );
}
