//! Tests of `telemetry::http::otlp`, against a small HTTP server.

use std::collections::VecDeque;
use std::sync::Mutex;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::net::TcpListener;

use super::message::{AnyValue, Export, Exported, PartialSuccess, Span, Value};
use super::*;
use crate::l7::flag::Flag;
use crate::telemetry::http::fake::Sample;
use crate::telemetry::http::trace::SpanContext;

/// Status and body.
type Answer = (u16, Vec<u8>);

/// A collector that answers as it is told, and 200 from then on.
#[derive(Clone, Default)]
struct Collector {
    answers: Arc<Mutex<VecDeque<Answer>>>,
    got: Arc<Mutex<Vec<Export>>>,
    connections: Arc<AtomicU64>,
}

impl Collector {
    async fn start(answers: &[Answer]) -> (Self, Endpoint) {
        let collector = Self {
            answers: Arc::new(Mutex::new(answers.iter().cloned().collect())),
            ..Self::default()
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(collector.clone().run(listener));
        (collector, format!("http://{address}").parse().unwrap())
    }

    async fn run(self, listener: TcpListener) {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            self.connections.fetch_add(1, Ordering::Relaxed);
            let me = self.clone();
            let service = service_fn(move |request| me.clone().answer(request));
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    }

    async fn answer(
        self,
        request: http::Request<Incoming>,
    ) -> Result<http::Response<Full<Bytes>>, hyper::Error> {
        assert_eq!(request.uri().path(), "/v1/traces");
        assert_eq!(request.headers()["content-type"], "application/x-protobuf");
        let body = request.into_body().collect().await?.to_bytes();
        let answer = self.answers.lock().unwrap().pop_front();
        let (status, answer) = answer.unwrap_or((200, Vec::new()));
        if status == 200 {
            self.got.lock().unwrap().push(Export::decode(body).unwrap());
        }
        let response = http::Response::builder().status(status);
        Ok(response.body(Full::from(answer)).unwrap())
    }

    fn spans(&self) -> Vec<Span> {
        let got = self.got.lock().unwrap();
        let scopes = got.iter().flat_map(|it| &it.resource_spans);
        let spans = scopes
            .flat_map(|it| &it.scope_spans)
            .flat_map(|it| &it.spans);
        spans.cloned().collect()
    }
}

fn sampled(span_id: u64) -> Arc<Request> {
    let mut sample = Sample {
        attempts: 2,
        status: 503,
        span: Some(SpanContext {
            trace_id: 0x0102,
            span_id,
            parent_id: Some(9),
            is_sampled: true,
        }),
        ..Sample::default()
    };
    sample.flags.raise(Flag::UpstreamTimeout);
    let mut request = sample.request();
    request.start = jiff::Timestamp::from_second(1_700_000_000).unwrap();
    Arc::new(request)
}

/// Runs an exporter without pauses until all that is queued has been dealt with.
async fn export(endpoint: Endpoint, requests: Vec<Arc<Request>>) -> Arc<SpanCounters> {
    let (spans, mut exporter) = Spans::new(endpoint, "node-1".to_owned());
    exporter.period = Duration::from_millis(1);
    exporter.backoff = Duration::from_millis(1);
    let count = requests.len() as u64;
    for request in requests {
        spans.take(request);
    }
    let (stop, stopping) = watch::channel(false);
    let running = tokio::spawn(exporter.run(stopping));
    let counters = spans.counters;
    let sum = || {
        let all = [&counters.exported, &counters.dropped, &counters.rejected];
        all.map(|it| it.load(Ordering::Relaxed)).iter().sum::<u64>()
    };
    let done = async {
        while sum() < count {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), done)
        .await
        .unwrap();
    stop.send_replace(true);
    running.await.unwrap();
    assert_eq!(sum(), count, "each span is counted once");
    counters
}

fn attribute(span: &Span, key: &str) -> Option<Value> {
    let found = span.attributes.iter().find(|it| it.key == key)?;
    let AnyValue { value } = found.value.clone()?;
    value
}

#[tokio::test]
async fn a_collector_gets_spans_that_it_can_read() {
    let (collector, endpoint) = Collector::start(&[]).await;
    let all = (1..=1_200).map(sampled).collect();
    let counters = export(endpoint, all).await;
    assert_eq!(counters.exported.load(Ordering::Relaxed), 1_200);
    let spans = collector.spans();
    let ids: Vec<u64> = spans
        .iter()
        .map(|it| u64::from_be_bytes(it.span_id.as_slice().try_into().unwrap()))
        .collect();
    assert!(ids.iter().copied().eq(1..=1_200));
    assert_eq!(collector.got.lock().unwrap().len(), 3, "batches of 512");
    assert_eq!(
        collector.connections.load(Ordering::Relaxed),
        1,
        "one that is kept"
    );
    let span = &spans[0];
    assert_eq!(span.trace_id.len(), 16);
    assert_eq!(span.trace_id[14..], [1, 2]);
    assert_eq!(span.parent_span_id, [0, 0, 0, 0, 0, 0, 0, 9]);
    assert_eq!(span.name, "GET shop/cart/0");
    assert_eq!(span.end_ns - span.start_ns, 1_000_000);
    assert_eq!(span.status.as_ref().map(|it| it.code), Some(2));
    let text = |text: &str| Some(Value::Text(text.to_owned()));
    assert_eq!(attribute(span, "url.path"), text("/items"), "no query");
    assert_eq!(attribute(span, "error.type"), text("UT"));
    let status = attribute(span, "http.response.status_code");
    assert_eq!(status, Some(Value::Whole(503)));
    let resource = collector.got.lock().unwrap()[0].resource_spans[0]
        .resource
        .clone();
    let first = &resource.unwrap().attributes[0];
    assert_eq!(first.key, "service.name");
}

/// What the generated code of opentelemetry-proto 0.33 reads as the span that was meant, and writes again byte for byte.
const OFFICIAL: &str = include_str!("official.hex");

#[test]
fn bytes_are_those_of_the_official_messages() {
    let request = sampled(0x0a0b);
    let mut request = Request::clone(&request);
    request.trace_state = "a=1".to_owned();
    request.grpc_status = Some(14);
    let bytes = span::message(&[Arc::new(request)], "node-1", "0.1.0");
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let official: String = OFFICIAL.split_whitespace().collect();
    assert_eq!(hex, official);
}

#[tokio::test]
async fn what_may_succeed_later_is_tried_again_and_the_rest_is_counted() {
    let busy = (503, Vec::new());
    let (collector, endpoint) = Collector::start(&[busy.clone(), (429, Vec::new())]).await;
    let counters = export(endpoint, vec![sampled(1)]).await;
    assert_eq!(counters.exported.load(Ordering::Relaxed), 1);
    assert_eq!(collector.spans().len(), 1);

    let (collector, endpoint) = Collector::start(&[(400, Vec::new())]).await;
    let counters = export(endpoint, vec![sampled(1), sampled(2)]).await;
    assert_eq!(counters.rejected.load(Ordering::Relaxed), 2);
    assert!(collector.spans().is_empty());

    let (_, endpoint) = Collector::start(&vec![busy; ATTEMPTS as usize]).await;
    let counters = export(endpoint, vec![sampled(1)]).await;
    assert_eq!(counters.dropped.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn what_the_collector_takes_only_in_part_is_counted() {
    let said = Exported {
        partial_success: Some(PartialSuccess {
            rejected_spans: 1,
            error_message: "too old".to_owned(),
        }),
    };
    let (_, endpoint) = Collector::start(&[(200, said.encode_to_vec())]).await;
    let counters = export(endpoint, vec![sampled(1), sampled(2), sampled(3)]).await;
    assert_eq!(counters.rejected.load(Ordering::Relaxed), 1);
    assert_eq!(counters.exported.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn without_a_collector_spans_are_dropped_and_nobody_waits() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let endpoint: Endpoint = format!("http://{address}").parse().unwrap();
    let counters = export(endpoint.clone(), vec![sampled(1)]).await;
    assert_eq!(counters.dropped.load(Ordering::Relaxed), 1);
    let (spans, _exporter) = Spans::new(endpoint, String::new());
    for id in 1..=QUEUE as u64 + 7 {
        spans.take(sampled(id));
    }
    assert_eq!(spans.counters.dropped.load(Ordering::Relaxed), 7);
}

#[test]
fn pauses_double_up_to_a_minute() {
    let endpoint: Endpoint = "http://h".parse().unwrap();
    let (_spans, mut exporter) = Spans::new(endpoint, String::new());
    for (failures, most) in [(1, 1), (2, 2), (3, 4), (7, 60), (40, 60)] {
        let pause = exporter.pause(failures);
        let most = Duration::from_secs(most);
        assert!(
            pause > most / 2 - Duration::from_millis(1) && pause <= most,
            "{pause:?}"
        );
    }
}

#[test]
fn endpoints_are_plain_http() {
    let read = |text: &str| text.parse::<Endpoint>().map(|it| it.to_string());
    assert_eq!(read("http://otel").unwrap(), "http://otel:4318/v1/traces");
    assert_eq!(read("http://[::1]:80/x").unwrap(), "http://[::1]:80/x");
    assert!(
        read("https://otel")
            .unwrap_err()
            .contains("https is not supported")
    );
    for wrong in ["otel:4318", "http://", "grpc://otel", "", "/v1/traces"] {
        assert!(read(wrong).is_err(), "{wrong}");
    }
}
