//! Registering instances and looking services up, over the real socket.

use super::*;
use crate::admin::types::services::{RegistrationAnswer, ServiceList};

const BODY: &str = r#"{"address": "10.0.0.1", "ports": [{"name": "http", "number": 8080}]}"#;
const PATH: &str = "/v1/services/shop/basket/instances/a";

impl Served {
    async fn send(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let length = body.len();
        self.raw(&format!(
            "{method} {path} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        ))
        .await
    }
}

#[tokio::test]
async fn an_instance_is_registered_renewed_shown_and_taken_out() {
    let served = Served::start();
    let (status, body) = served.send("PUT", PATH, BODY).await;
    assert_eq!(status, 200, "{body}");
    let first: RegistrationAnswer = serde_json::from_str(&body).unwrap();
    assert_eq!(first.schema, "underpass.dev/registration/v1");
    assert!(!first.renewed && first.persisted && first.addresses.len() == 1);
    let (_, body) = served.send("PUT", PATH, BODY).await;
    let second: RegistrationAnswer = serde_json::from_str(&body).unwrap();
    assert!(second.renewed && second.addresses == first.addresses);
    let (status, body) = served.send("POST", &format!("{PATH}/heartbeat"), "").await;
    assert_eq!(status, 200, "{body}");

    let list: ServiceList = served.json("/v1/services/shop/basket").await;
    let service = &list.services[0];
    assert_eq!(service.addresses, first.addresses);
    assert!(service.ports[0].endpoints[0].ready);
    assert!(!service.instances["a"].expired);
    let all: ServiceList = served.json("/v1/services").await;
    assert_eq!(all, list);

    let (status, _) = served.send("DELETE", PATH, "").await;
    assert_eq!(status, 200);
    for (method, path) in [
        ("DELETE", PATH),
        ("GET", "/v1/services/shop/basket"),
        ("POST", "/v1/services/shop/basket/instances/a/heartbeat"),
    ] {
        let (status, body) = served.send(method, path, "").await;
        assert_eq!(status, 404, "{method} {path}: {body}");
    }
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    let served = Served::start();
    let long = format!("{{\"address\": \"{}\"", " ".repeat(40_000));
    for (path, body, wanted) in [
        (PATH, "{", 400),
        (
            PATH,
            r#"{"address": "10.0.0.1", "ports": [], "colour": "red"}"#,
            422,
        ),
        (PATH, r#"{"address": "10.0.0.1", "ports": []}"#, 400),
        (
            PATH,
            r#"{"address": "127.0.0.1", "ports": [{"number": 1}]}"#,
            400,
        ),
        (PATH, &long, 413),
        ("/v1/services/SHOP/basket/instances/a", BODY, 400),
        ("/v1/services/shop/basket/instances/a%2Fb", BODY, 400),
        ("/v1/services/shop/basket/instances/", BODY, 404),
    ] {
        let (status, body) = served.send("PUT", path, body).await;
        assert_eq!(status, wanted, "{path}: {body}");
    }
    let all: ServiceList = served.json("/v1/services").await;
    assert_eq!(all.services, []);
}

#[tokio::test]
async fn the_metrics_listener_on_loopback_only_looks_up() {
    let served = Served::start();
    served.send("PUT", PATH, BODY).await;
    let ask = async |request: String| {
        let mut stream = TcpStream::connect(served.metrics).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        parts(&answer)
    };
    let (status, body) = ask(get("/v1/services/shop/basket")).await;
    assert_eq!(status, 200, "{body}");
    assert!(body.contains("10.0.0.1"), "{body}");
    let delete = format!("DELETE {PATH} HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(ask(delete).await.0, 404);
}
