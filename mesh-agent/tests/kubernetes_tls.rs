//! The source `kubernetes` over TLS and HTTP/2, as a real API server speaks: one connection for all watches, to no other server.
#![expect(
    clippy::unwrap_used,
    reason = "what fails here fails the test, in helpers too"
)]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{Request, Response, Version};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use mesh_agent::model::api::ApiState;
use mesh_agent::model::workload::Acceleration;
use mesh_agent::source::kubernetes::{KubernetesSettings, KubernetesSource};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

/// Longer than anything here takes, also on a busy machine.
const DEADLINE: Duration = Duration::from_secs(30);

const LIST_END: &str = r#"{"type":"BOOKMARK","object":{"kind":"Pod","apiVersion":"v1","metadata":{"resourceVersion":"7","annotations":{"k8s.io/initial-events-end":"true"}},"spec":{},"status":{}}}"#;

const NAMESPACE: &str = r#"{"type":"ADDED","object":{"kind":"Namespace","apiVersion":"v1","metadata":{"name":"shop","resourceVersion":"6"}}}"#;

/// A server, and what it saw.
struct Server {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    /// Requests of HTTP/2 with the right token.
    requests: Arc<AtomicUsize>,
    authority: String,
}

type Issuer = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Issuer {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn tls(authority: &Issuer) -> ServerConfig {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, authority).unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config
}

async fn start() -> Server {
    let authority = authority();
    let acceptor = TlsAcceptor::from(Arc::new(tls(&authority)));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Server {
        address: listener.local_addr().unwrap(),
        connections: Arc::default(),
        requests: Arc::default(),
        authority: authority.pem(),
    };
    let (connections, requests) = (server.connections.clone(), server.requests.clone());
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (acceptor, connections, requests) =
                (acceptor.clone(), connections.clone(), requests.clone());
            tokio::spawn(async move {
                // A client that does not trust the server ends here.
                let Ok(stream) = acceptor.accept(stream).await else {
                    return;
                };
                connections.fetch_add(1, Ordering::Relaxed);
                let service = service_fn(move |request| {
                    let answer = answer(&request, &requests);
                    async move { Ok::<_, Infallible>(answer) }
                });
                hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service)
                    .await
                    .ok();
                connections.fetch_sub(1, Ordering::Relaxed);
            });
        }
    });
    server
}

fn answer(
    request: &Request<Incoming>,
    requests: &AtomicUsize,
) -> Response<BoxBody<Bytes, Infallible>> {
    let token = request.headers().get("authorization");
    let is_known = token.is_some_and(|token| token == "Bearer a-token");
    if is_known && request.version() == Version::HTTP_2 {
        requests.fetch_add(1, Ordering::Relaxed);
    }
    let query = request.uri().query().unwrap_or_default();
    let (code, text) = match request.uri().path() {
        _ if !is_known => (401, String::new()),
        "/readyz" => (200, "ok".to_owned()),
        "/apis" => (200, r#"{"items":[]}"#.to_owned()),
        path if query.contains("watch=true") => {
            let objects = if path.ends_with("/namespaces") {
                NAMESPACE
            } else {
                ""
            };
            let text = format!("{objects}\n{LIST_END}\n");
            let first = stream::iter([text.trim_start().to_owned()]);
            // It goes on for as long as the connection.
            let lines = first.chain(stream::pending());
            let frames = lines.map(|line| Ok(Frame::data(Bytes::from(line))));
            return Response::new(BodyExt::boxed(StreamBody::new(frames)));
        }
        _ => (404, "404 page not found\n".to_owned()),
    };
    let body = http_body_util::Full::new(Bytes::from(text)).boxed();
    Response::builder().status(code).body(body).unwrap()
}

fn source(dir: &Path, server: &Server, authority: &str) -> KubernetesSource {
    let file = dir.join("authority.pem");
    std::fs::write(&file, authority).unwrap();
    let kubeconfig = dir.join("kubeconfig");
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
         clusters: [{{name: c, cluster: {{server: 'https://{}', certificate-authority: '{}'}}}}]\n\
         users: [{{name: c, user: {{token: a-token}}}}]\n\
         contexts: [{{name: c, context: {{cluster: c, user: c}}}}]\n",
        server.address,
        file.display()
    );
    std::fs::write(&kubeconfig, text).unwrap();
    KubernetesSource::start(KubernetesSettings {
        kubeconfig: Some(kubeconfig),
        node: "node-1".to_owned(),
        state_dir: dir.join("state"),
        acceleration: Acceleration::Auto,
    })
    .unwrap()
}

/// Waits until the status is as it has to be.
async fn until(source: &KubernetesSource, is_so: impl Fn(ApiState, &str) -> bool) {
    let mut status = source.status();
    let begun = Instant::now();
    loop {
        let now = status.borrow_and_update().clone();
        if is_so(now.state, now.why.as_deref().unwrap_or_default()) {
            return;
        }
        assert!(begun.elapsed() < DEADLINE, "{now:#?}");
        tokio::time::timeout(DEADLINE, status.changed())
            .await
            .unwrap()
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_watches_share_one_connection() {
    let server = start().await;
    let dir = tempfile::tempdir().unwrap();
    let source = source(dir.path(), &server, &server.authority);
    until(&source, |state, _| state == ApiState::Synced).await;
    assert!(source.snapshot().namespaces.contains_key("shop"));
    let requests = server.requests.load(Ordering::Relaxed);
    assert!(requests >= 9, "{requests} requests of HTTP/2");
    // Of the first requests each may have begun one; what is not needed is closed.
    let begun = Instant::now();
    while server.connections.load(Ordering::Relaxed) != 1 {
        assert!(begun.elapsed() < DEADLINE, "more than one connection");
        tokio::task::yield_now().await;
    }
    tokio::task::spawn_blocking(move || drop(source))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_another_authority_speaks_for_is_told_nothing() {
    let server = start().await;
    let dir = tempfile::tempdir().unwrap();
    let source = source(dir.path(), &server, &authority().pem());
    until(&source, |_, why| why.contains("certificate")).await;
    assert_eq!(server.requests.load(Ordering::Relaxed), 0);
    assert_eq!(source.snapshot().generation, 0);
    tokio::task::spawn_blocking(move || drop(source))
        .await
        .unwrap();
}
