//! Tests of `ctl::top`.

use mesh_common::histogram::{BUCKETS, bucket};
use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::view::{View, draw};
use super::*;
use crate::admin::types::Pair;

fn pair(source: &str, destination: &str, path: &str, scale: u64) -> Pair {
    let mut turn_histogram = [0; BUCKETS];
    turn_histogram[bucket(45)] = 99 * scale;
    turn_histogram[bucket(3_000)] = scale;
    Pair {
        source: source.parse().ok(),
        destination: destination.parse().ok(),
        service: None,
        destination_port: 8080,
        path: path.into(),
        overflow: false,
        tx_bytes: 10_000 * scale,
        rx_bytes: 1_000_000 * scale,
        tx_messages: 100 * scale,
        rx_messages: 200 * scale,
        flows_open: 3,
        flows_opened: scale,
        flows_closed: 0,
        flows_failed: 0,
        retransmits: scale,
        connect_sum_us: 0,
        connect_histogram: [0; BUCKETS],
        turn_sum_us: 0,
        turn_histogram,
    }
}

fn pairs(seconds: u64, pairs: Vec<Pair>) -> Pairs {
    Pairs {
        schema: String::new(),
        at_ns: seconds * 1_000_000_000,
        pairs,
    }
}

#[test]
fn backends_of_a_service_share_a_row() {
    let of = |backend: &str, scale| Pair {
        service: Some(crate::admin::types::ServiceRef {
            namespace: "shop".into(),
            name: "cart".into(),
            port: 80,
        }),
        ..pair("shop/web", backend, "tcp", scale)
    };
    let before = pairs(
        10,
        vec![of("shop/cart-1", 1), of("shop/cart-2", 1), of("", 1)],
    );
    let after = pairs(
        11,
        vec![of("shop/cart-1", 2), of("shop/cart-2", 3), of("", 4)],
    );
    let top = Top::between(&before, &after);
    assert_eq!(top.rows.len(), 1);
    assert_eq!(top.rows[0].messages_per_second, 300.0 * 6.0);
    assert_eq!(top.rows[0].texts()[1], "shop/cart:80");
}

fn top() -> Top {
    let before = pairs(
        10,
        vec![
            pair("shop/web", "shop/cart", "redirect", 1),
            pair("shop/web", "shop/cart", "tcp", 5),
        ],
    );
    let mut idle = pair("shop/idle", "shop/cart", "tcp", 0);
    idle.flows_open = 0;
    let mut overflow = pair("", "", "tcp", 1);
    overflow.overflow = true;
    let after = pairs(
        12,
        vec![
            pair("shop/web", "shop/cart", "redirect", 7),
            pair("shop/web", "shop/cart", "tcp", 7),
            pair("elsewhere", "shop/web", "tcp", 2),
            idle,
            overflow,
        ],
    );
    let mut top = Top::between(&before, &after);
    top.sort(SortKey::Bytes);
    top
}

#[test]
fn rates_are_of_the_interval_and_paths_add_up() {
    let top = top();
    let row = &top.rows[0];
    assert_eq!(row.texts()[..2], ["shop/web", "shop/cart:8080"]);
    // 6 of redirect and 2 of TCP, in two seconds.
    assert!((row.bytes_per_second - 4_040_000.0).abs() < 1.0);
    assert!((row.messages_per_second - 1_200.0).abs() < 1e-6);
    assert_eq!(row.redirected_percent, Some(75.0));
    assert_eq!(row.flows_open, 6);
    assert!(row.turnaround_p50_us.unwrap() < 64.0);
    assert_eq!(top.rows.len(), 3, "the idle one is left out");
    assert_eq!(top.flows_open, 12);
}

#[test]
fn rows_are_sorted_by_what_was_asked() {
    let mut top = top();
    top.sort(SortKey::Name);
    let sources: Vec<_> = top.rows.iter().map(|row| row.texts()[0].clone()).collect();
    assert_eq!(sources, ["(others)", "elsewhere", "shop/web"]);
    top.sort(SortKey::Flows);
    assert_eq!(top.rows[0].texts()[0], "shop/web");
}

#[test]
fn a_counter_that_fell_is_no_huge_rate() {
    let before = pairs(1, vec![pair("a/b", "c/d", "tcp", 9)]);
    let after = pairs(2, vec![pair("a/b", "c/d", "tcp", 1)]);
    let top = Top::between(&before, &after);
    assert!((top.rows[0].bytes_per_second - 1_010_000.0).abs() < 1.0);
    // The agent was replaced in between, and its clock is the same; or no time passed at all.
    assert!(Top::between(&after, &after).rows[0].bytes_per_second.abs() < 1e-9);
}

#[test]
fn one_look_shows_also_what_ended_a_moment_ago() {
    let mut ended = pair("shop/web", "shop/cart", "redirect", 3);
    ended.flows_open = 0;
    let mut refused = pair("shop/web", "shop/gone", "tcp", 0);
    (refused.flows_open, refused.flows_failed) = (0, 1);
    let mut never = pair("shop/web", "shop/never", "tcp", 0);
    never.flows_open = 0;
    let rows = vec![refused, ended, never];
    let (before, after) = (pairs(1, rows.clone()), pairs(2, rows));
    assert!(Top::between(&before, &after).rows.is_empty());
    let mut once = Top::once(&before, &after);
    once.sort(SortKey::Bytes);
    assert_eq!(once.rows.len(), 2, "{once:?}");
    let row = &once.rows[0];
    assert_eq!((row.bytes_total, row.messages_total), (3_030_000, 900));
    assert!(row.bytes_per_second.abs() < 1e-9);
    assert_eq!(row.redirected_percent, Some(100.0));
    assert!(row.turnaround_p50_us.is_some() && row.turnaround_p99_us.is_some());
    assert_eq!(once.redirected_percent, Some(100.0));
}

#[test]
fn one_table_for_a_script_fits_80_columns() {
    let expected = "\
SOURCE     DESTINATION     BYTES/S  MSG/S  FLOWS    BYTES   P50   P99  REDIR
shop/web   shop/cart:8080   4.0 MB   1.2k      6  14.1 MB  48us  64us    75%
elsewhere  shop/web:8080    1.0 MB    300      3   2.0 MB  48us  64us     0%
(others)   (others)         505 kB    150      3   1.0 MB  48us  64us     0%
";
    assert_eq!(render(&top(), &Screen::plain()), expected);
    let nothing = render(&Top::default(), &Screen::plain());
    assert_eq!(nothing, "no traffic was counted yet\n");
}

/// Returns the screen as lines, without blanks at their ends.
fn drawn(columns: u16, lines: u16, top: &Top, view: &View) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(columns, lines)).unwrap();
    terminal.draw(|frame| draw(frame, top, view)).unwrap();
    let buffer = terminal.backend().buffer();
    let line = |y| {
        (0..columns)
            .map(|x| buffer[(x, y)].symbol())
            .collect::<String>()
    };
    (0..lines).map(|y| line(y).trim_end().to_owned()).collect()
}

#[test]
fn the_live_screen_fits_80_by_24() {
    let lines = drawn(80, 24, &top(), &View::default());
    assert_eq!(
        lines[..6],
        [
            "5.6 MB/s, 1.6k messages/s, live flows: 12, 55% redirected  by bytes",
            "",
            "SOURCE    DESTINATION     BYTES/S  MSG/S FLOWS    P50    P99 REDIR",
            "shop/web  shop/cart:8080   4.0 MB   1.2k     6   48us   64us   75%",
            "elsewhere shop/web:8080    1.0 MB    300     3   48us   64us    0%",
            "(others)  (others)         505 kB    150     3   48us   64us    0%",
        ]
    );
    assert!(lines[23].starts_with("q quit"));
}

#[test]
fn long_names_are_cut_and_numbers_never() {
    let long = "n".repeat(60);
    let after = pairs(
        1,
        vec![pair(
            &format!("shop/{long}"),
            &format!("shop/{long}"),
            "tcp",
            5,
        )],
    );
    let top = Top::between(&pairs(0, vec![]), &after);
    let row = &drawn(80, 24, &top, &View::default())[3];
    assert_eq!(row.chars().count(), 80);
    assert!(
        row.contains('…') && row.ends_with("0%") && row.contains("5.0 MB"),
        "{row}"
    );
    // Too small for anything: nothing panics.
    for (columns, lines) in [(1, 1), (20, 3), (40, 5)] {
        drawn(columns, lines, &top, &View::default());
    }
}

#[test]
fn before_the_second_look_and_without_an_agent_the_screen_says_so() {
    let view = View {
        error: Some("failed to reach the agent".into()),
        ..View::default()
    };
    let lines = drawn(80, 24, &Top::default(), &view);
    assert_eq!(lines[..2], ["measuring...", "failed to reach the agent"]);
}
