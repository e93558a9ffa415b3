//! Tests of `telemetry::http`.

use http::StatusCode;

use super::*;
use crate::l7::flag::Flag;
use crate::telemetry::http::fake::Sample;

fn start(settings: &HttpSettings) -> Arc<Http> {
    Http::start(settings, "node-1").unwrap().0
}

#[test]
fn the_newest_requests_are_kept_and_what_is_left_out_is_counted() {
    let http = start(&HttpSettings::default());
    let observer = http.observer();
    let (_, mut follower) = http.recent().follow();
    let sample = Sample::default();
    let mut failed = Sample::default();
    failed.flags.raise(Flag::NoRoute);
    let begun = Instant::now();
    let all = KEPT_A_SECOND + 50;
    for _ in 0..all {
        observer.request(&sample.record());
    }
    observer.request(&failed.record());
    let recent = http.recent().recent();
    if begun.elapsed() < Duration::from_secs(1) {
        assert_eq!(recent.len(), KEPT_A_SECOND as usize + 1);
    }
    assert_eq!(recent.len() as u64 + http.left_out(), u64::from(all) + 1);
    assert!(
        recent.last().unwrap().is_error(),
        "failed ones have room of their own"
    );
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let next = runtime.unwrap().block_on(follower.next());
    assert!(matches!(next, Some(crate::telemetry::hub::Next::Ended(_))));
}

#[test]
fn only_a_share_is_logged_and_every_failure() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.log");
    let http = start(&HttpSettings {
        log: Some(LogTarget::File(path.clone())),
        log_sample: 0.1,
        ..HttpSettings::default()
    });
    let observer = http.observer();
    let failed = Sample {
        status: 500,
        ..Sample::default()
    };
    for _ in 0..1_000 {
        observer.request(&Sample::default().record());
        observer.request(&failed.record());
    }
    drop((observer, http));
    let lines = std::fs::read_to_string(&path).unwrap();
    let (bad, good) = lines
        .lines()
        .partition::<Vec<_>, _>(|line| line.contains("\"status\":500"));
    assert_eq!(bad.len(), 1_000);
    assert!((50..150).contains(&good.len()), "{}", good.len());
}

#[test]
fn heads_are_left_alone_unless_somebody_asked_for_more() {
    let plain = start(&HttpSettings::default()).observer();
    let mut head = RequestHead::default();
    assert_eq!(plain.begin(&mut head), None);
    assert!(head.fields.is_empty());
    let traced = start(&HttpSettings {
        otlp_endpoint: "http://127.0.0.1:1".parse().ok(),
        trace_sample: 1.0,
        ..HttpSettings::default()
    });
    let observer = traced.observer();
    let mut sample = Sample::default();
    sample.span = observer.begin(&mut sample.head);
    assert!(sample.head.fields.contains("traceparent"));
    assert!(sample.head.fields.contains("x-request-id"));
    observer.request(&sample.record());
    let recent = traced.recent().recent();
    let id = format!("{:032x}", sample.span.unwrap().trace_id);
    assert_eq!(recent[0].trace_id, Some(id));
    assert!(recent[0].request_id.is_some());
}

#[test]
fn what_is_no_request_is_told_of_with_its_reason() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.log");
    for format in [LogFormat::Json, LogFormat::Text] {
        let http = start(&HttpSettings {
            log: Some(LogTarget::File(path.clone())),
            log_format: format,
            log_sample: 0.0,
            ..HttpSettings::default()
        });
        let observer = http.observer();
        let client = Sample::default().client;
        observer.refused(&client, StatusCode::BAD_REQUEST, "no host");
        observer.refused(&client, StatusCode::BAD_REQUEST, "two hosts");
        let recent = http.recent().recent();
        assert_eq!(recent.len(), 2);
        assert!(recent[0].is_error());
        assert_eq!(
            (
                recent[0].status,
                &recent[0].flags[..],
                recent[0].why.as_deref()
            ),
            (Some(400), &["DPE".to_owned()][..], Some("no host"))
        );
        assert_eq!(recent[0].source.to_string(), "shop/web");
        let collector = HttpCollector::new(http.clone(), Arc::default()).unwrap();
        let families = prometheus::core::Collector::collect(&collector);
        let text = prometheus::TextEncoder::new()
            .encode_to_string(&families)
            .unwrap();
        let line = "mesh_http_malformed_requests_total{source_namespace=\"shop\",source=\"web\",\
            destination_service_namespace=\"shop\",destination_service=\"cart\",destination_port=\"80\",status=\"400\"} 2";
        assert!(text.lines().any(|it| it == line), "{text}");
        drop((observer, collector, http));
    }
    let lines = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<_> = lines.lines().collect();
    assert_eq!(lines.len(), 4, "{lines:?}");
    let json: serde_json::Value = serde_json::from_str(lines[1]).unwrap();
    assert_eq!(
        (&json["why"], &json["status"], &json["service"]["name"]),
        (&"two hosts".into(), &400.into(), &"cart".into())
    );
    assert!(
        lines[2].contains("] - 400 grpc=- DPE in=0 "),
        "{}",
        lines[2]
    );
    assert!(lines[2].ends_with(" why=\"no host\""), "{}", lines[2]);
}

/// Prints what a request costs, and fails where that is out of all proportion; builds for tests are ten times slower than others.
#[test]
fn a_request_costs_little() {
    let http = start(&HttpSettings::default());
    let observer = http.observer();
    let samples: Vec<Sample> = (0..100)
        .map(|it| {
            let mut sample = Sample::default();
            Arc::make_mut(&mut sample.client.workload).name = format!("web-{it}");
            sample
        })
        .collect();
    let mut best = Duration::MAX;
    for _ in 0..20 {
        let begun = Instant::now();
        for round in 0..10_000 {
            observer.request(&samples[round % 100].record());
        }
        best = best.min(begun.elapsed() / 10_000);
    }
    eprintln!("{best:?} for each request");
    assert!(best < Duration::from_micros(20), "{best:?}");
}
