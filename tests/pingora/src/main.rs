//! The smallest proxy on pingora: one of the peers that the benchmark `l7` compares with.
//!
//! `pingora-peer CA_FILE KIND=LISTEN=BACKEND...`, where KIND says what is special: `plain`, `tls` to the backend, `routes` by the
//! path, or HTTP/`2` on both sides. Each has a thread of its own, of which the benchmark uses one at a time.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::env;
use std::error::Error;
use std::sync::Arc;

use async_trait::async_trait;
use pingora::apps::HttpServerOptions;
use pingora::prelude::{HttpPeer, ProxyHttp, Result, Session};
use pingora::proxy::http_proxy;
use pingora::server::Server;
use pingora::server::configuration::ServerConf;
use pingora::services::listening::Service;

/// Routes of the kind `routes`: `/route-0/` and so on. The benchmark's other peers have as many.
const ROUTES: usize = 1000;

/// The name in the backend's certificate.
const BACKEND_NAME: &str = "backend.bench";

/// Connections to the backend that are kept while idle: more than the benchmark has clients in its busiest case.
const POOL: usize = 2048;

struct Proxy {
    peer: HttpPeer,
    /// By the first segment of the path, which is the quickest that a proxy made for this purpose could have.
    routes: Option<HashMap<String, HttpPeer>>,
}

#[async_trait]
impl ProxyHttp for Proxy {
    type CTX = ();

    fn new_ctx(&self) -> Self::CTX {}

    async fn upstream_peer(
        &self,
        session: &mut Session,
        _: &mut Self::CTX,
    ) -> Result<Box<HttpPeer>> {
        let Some(routes) = &self.routes else {
            return Ok(Box::new(self.peer.clone()));
        };
        let path = session.req_header().uri.path();
        let segment = path.split('/').nth(1).unwrap_or_default();
        let found = routes.get(segment);
        found
            .cloned()
            .map(Box::new)
            .ok_or_else(|| pingora::Error::explain(pingora::HTTPStatus(404), "no route"))
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let conf = ServerConf {
        threads: 1,
        // One thread has nobody to steal from.
        work_stealing: false,
        upstream_keepalive_pool_size: POOL,
        ca_file: arguments.next(),
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    for listener in arguments {
        let mut words = listener.split('=');
        let (Some(kind), Some(listen), Some(backend)) = (words.next(), words.next(), words.next())
        else {
            return Err(format!("not KIND=LISTEN=BACKEND: `{listener}`").into());
        };
        let conf = Arc::clone(&server.configuration);
        let tls = kind == "tls";
        let mut peer = HttpPeer::new(backend, tls, BACKEND_NAME.to_owned());
        if kind == "2" {
            peer.options.set_http_version(2, 2);
            // As many as the backend takes.
            peer.options.max_h2_streams = 100;
        }
        let routes = (kind == "routes").then(|| {
            let names = (0..ROUTES).map(|number| format!("route-{number}"));
            names.map(|name| (name, peer.clone())).collect()
        });
        let mut app = http_proxy(&conf, Proxy { peer, routes });
        let mut options = HttpServerOptions::default();
        options.h2c = kind == "2";
        app.server_options = Some(options);
        let mut service = Service::new(format!("{kind} proxy"), app);
        service.add_tcp(listen);
        server.add_service(service);
    }
    server.run_forever()
}
