//! Requests whose time is up before anybody was asked.

use std::time::Duration;

use super::admission::report;
use super::scene::{Scene, Setting, rule, strict};
use crate::l7::flag::Flag;
use crate::model::traffic::{Fault, Traffic};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const CALL: &str = "POST /a.B/C HTTP/1.1\r\nHost: a\r\nContent-Type: application/grpc\r\nContent-Length: 0\r\n\r\n";

#[tokio::test]
async fn a_delay_ends_when_the_request_has_to() {
    let mut timed = rule("/", "cart");
    timed.request_timeout = Some(Duration::from_millis(100));
    let call = CALL.replace("Content-Length", "grpc-timeout: 100m\r\nContent-Length");
    for (rules, request, begin) in [
        (vec![timed], GET, "HTTP/1.1 504 "),
        (vec![rule("/", "cart")], &*call, "HTTP/1.1 200 "),
    ] {
        let scene = Scene::new(Setting {
            rules,
            policy: strict(),
            traffic: Traffic {
                fault: Some(Fault {
                    delay: Some((Duration::from_secs(60), 100)),
                    abort: None,
                }),
                ..Traffic::default()
            },
            ..Setting::default()
        })
        .await;
        let mut client = scene.client().await;
        client.send(request).await;
        let head = client.head().await;
        assert!(head.starts_with(begin), "{head}");
        let is_call = request != GET;
        assert_eq!(head.contains("\r\ngrpc-status: 4\r\n"), is_call, "{head}");
        let record = scene.record().await;
        let raised = [Flag::UpstreamTimeout, Flag::FaultDelay];
        assert!(raised.iter().all(|it| record.flags.contains(it)));
        // Nobody was asked, and so it is nobody's fault.
        assert_eq!((record.attempts, report(&scene).ejections), (0, 0));
    }
}

#[tokio::test]
async fn a_call_whose_time_is_up_asks_nobody() {
    let scene = Scene::new(Setting {
        policy: strict(),
        ..Setting::default()
    })
    .await;
    let mut client = scene.client().await;
    let call = CALL.replace("Content-Length", "grpc-timeout: 1n\r\nContent-Length");
    client.send(call).await;
    assert!(client.head().await.contains("\r\ngrpc-status: 4\r\n"));
    let record = scene.record().await;
    assert_eq!(
        (&record.flags[..], record.attempts),
        (&[Flag::UpstreamTimeout][..], 0)
    );
    assert_eq!(report(&scene).ejections, 0);
}
