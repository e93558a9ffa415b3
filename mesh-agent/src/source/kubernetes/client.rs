//! Requests to the API server.
//!
//! Address, credentials, their renewal and TLS are `kube`'s. The connection is made here: `kube`'s own speaks HTTP/1.1, with a
//! connection for each watch, where one for all of them will do. Answers are read here too: an object that cannot be read
//! must not break the watch that it came by, and the server's wish to be left alone has to be heard.
#![forbid(unsafe_code)]

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};
use http::{Request, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper_rustls::{FixedServerNameResolver, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as HyperClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::{Body, ConfigExt as _};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::time::timeout;
use tower::{BoxError, ServiceBuilder};

use super::limits;
use super::trouble::{Sort, Trouble};
use crate::chain::chain;

/// Time between two questions whether the other end is there, and for the answer.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// Bytes that one stream may have on its way, and all of them together: what is read no further must not fill the memory.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;

/// The API server.
pub(super) struct Api {
    client: Client,
    server: String,
    requests: AtomicU64,
    /// Whether this server does not stream lists.
    pages: AtomicBool,
    /// Whether definitions of custom resources are watched.
    definitions: AtomicBool,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api").field("server", &self.server).finish()
    }
}

/// An answer whose body is still to be read.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) etag: Option<String>,
    pub(super) body: Body,
}

impl Api {
    /// Returns the API server that a file names; without one, that of `KUBECONFIG`, or of the cluster that the agent runs in.
    /// Connects to nothing.
    ///
    /// # Errors
    ///
    /// When there is none, or it cannot be made sense of.
    pub(super) async fn infer(kubeconfig: Option<&Path>) -> anyhow::Result<Self> {
        Self::new(&config(kubeconfig).await?)
    }

    /// Returns the API server of a configuration. Has to be called within a runtime.
    pub(super) fn new(config: &Config) -> anyhow::Result<Self> {
        let server = config.cluster_url.to_string();
        let server = server.trim_end_matches('/').to_owned();
        if config.proxy_url.is_some() {
            bail!("the API server `{server}` is to be reached by a proxy, which is not supported");
        }
        Ok(Self {
            client: client(config)
                .with_context(|| format!("failed to prepare for the API server `{server}`"))?,
            server,
            requests: AtomicU64::new(0),
            pages: AtomicBool::new(false),
            definitions: AtomicBool::new(false),
        })
    }

    /// Returns the server's address.
    pub(super) fn server(&self) -> &str {
        &self.server
    }

    /// Returns the number of requests so far.
    pub(super) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Returns whether lists come in pages, because the server does not stream them.
    pub(super) fn pages(&self) -> bool {
        self.pages.load(Ordering::Relaxed)
    }

    /// Notes that this server does not stream lists.
    pub(super) fn use_pages(&self) {
        if !self.pages.swap(true, Ordering::Relaxed) {
            tracing::info!(
                server = self.server,
                "the API server does not stream lists; they are read in pages"
            );
        }
    }

    /// Returns whether definitions of custom resources are watched, so that nobody needs to ask for them.
    pub(super) fn watches_definitions(&self) -> bool {
        self.definitions.load(Ordering::Relaxed)
    }

    /// Notes whether definitions of custom resources are watched.
    pub(super) fn set_watches_definitions(&self, is_so: bool) {
        self.definitions.store(is_so, Ordering::Relaxed);
    }

    /// Returns the answer, once it begins. `etag` is that of the answer that is known; `None` is returned if it still holds.
    pub(super) async fn get(
        &self,
        path: &str,
        accept: &str,
        etag: Option<&str>,
    ) -> Result<Option<Answer>, Trouble> {
        let mut request = Request::get(path).header(header::ACCEPT, accept).header(
            header::USER_AGENT,
            concat!("node-agent/", env!("CARGO_PKG_VERSION")),
        );
        if let Some(etag) = etag {
            request = request.header(header::IF_NONE_MATCH, etag);
        }
        let request = request
            .body(Body::empty())
            .map_err(|error| Trouble::new(Sort::Refused, error.to_string()))?;
        self.requests.fetch_add(1, Ordering::Relaxed);
        let answer = timeout(limits::ANSWER, self.client.send(request)).await;
        let answer = answer.map_err(|_| {
            let message = format!(
                "no answer from `{}` within {:?}",
                self.server,
                limits::ANSWER
            );
            Trouble::new(Sort::Away, message)
        })?;
        let answer = answer.map_err(|error| {
            let message = format!("failed to reach `{}`: {}", self.server, chain(&error));
            Trouble::new(Sort::Away, message)
        })?;
        let (head, body) = answer.into_parts();
        match head.status {
            StatusCode::NOT_MODIFIED => Ok(None),
            code if code.is_success() => {
                let etag = head.headers.get(header::ETAG);
                let etag = etag.and_then(|etag| etag.to_str().ok());
                Ok(Some(Answer {
                    etag: etag.map(str::to_owned),
                    body,
                }))
            }
            code => {
                let (body, _) = read(body, limits::ERROR_BYTES).await?;
                Err(Trouble::of_answer(code, &head.headers, &body))
            }
        }
    }

    /// Returns the whole body of an answer.
    pub(super) async fn text(&self, path: &str) -> Result<Vec<u8>, Trouble> {
        let answer = self.get(path, "application/json", None).await?;
        let answer =
            answer.ok_or_else(|| Trouble::new(Sort::Garbled, "304 to a first question"))?;
        whole(answer.body).await
    }
}

/// Returns what a file says of its API server; without one, `KUBECONFIG`, or the pod's service account.
///
/// # Errors
///
/// When there is nothing, or it cannot be made sense of.
pub(super) async fn config(kubeconfig: Option<&Path>) -> anyhow::Result<Config> {
    let Some(file) = kubeconfig else {
        return Config::infer().await.context(
            "found no API server: neither does KUBECONFIG name one, nor does the agent run in a pod with a service account",
        );
    };
    let options = KubeConfigOptions::default();
    let read = Kubeconfig::read_from(file).with_context(|| wrong(file))?;
    let config = Config::from_custom_kubeconfig(read, &options).await;
    config.with_context(|| wrong(file))
}

fn wrong(file: &Path) -> String {
    format!("failed to read `{}` as kubeconfig", file.display())
}

/// Returns a whole body.
pub(super) async fn whole(body: Body) -> Result<Vec<u8>, Trouble> {
    let (bytes, is_all) = read(body, limits::PAGE_BYTES).await?;
    if !is_all {
        let message = format!("the answer is larger than {} MiB", limits::PAGE_BYTES >> 20);
        return Err(Trouble::new(Sort::Garbled, message));
    }
    Ok(bytes)
}

/// Returns a body up to a limit, and whether that is all of it.
async fn read(mut body: Body, most: usize) -> Result<(Vec<u8>, bool), Trouble> {
    let mut bytes = Vec::new();
    loop {
        let frame = timeout(limits::ANSWER, body.frame()).await;
        let frame = frame.map_err(|_| Trouble::new(Sort::Away, "the answer stops midway"))?;
        let Some(frame) = frame else {
            return Ok((bytes, true));
        };
        let frame = frame.map_err(|error| broken(&error))?;
        if let Ok(data) = frame.into_data() {
            let room = most - bytes.len();
            bytes.extend_from_slice(&data[..data.len().min(room)]);
            if data.len() > room {
                return Ok((bytes, false));
            }
        }
    }
}

/// Returns what a connection that breaks means.
pub(super) fn broken(error: &kube::Error) -> Trouble {
    let message = format!("the connection broke: {}", chain(error));
    Trouble::new(Sort::Away, message)
}

fn client(config: &Config) -> anyhow::Result<Client> {
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_nodelay(true);
    http.set_connect_timeout(Some(limits::CONNECT));
    http.set_keepalive(Some(KEEP_ALIVE));
    http.set_tcp_user_timeout(Some(2 * KEEP_ALIVE));
    let tls = HttpsConnectorBuilder::new()
        .with_tls_config(config.rustls_client_config()?)
        .https_or_http();
    let tls = match &config.tls_server_name {
        Some(name) => {
            let name = name.clone().try_into().context("tls-server-name")?;
            tls.with_server_name_resolver(FixedServerNameResolver::new(name))
        }
        None => tls,
    };
    let https = tls.enable_all_versions().wrap_connector(http);
    let hyper = HyperClient::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .http2_keep_alive_interval(KEEP_ALIVE)
        .http2_keep_alive_timeout(KEEP_ALIVE)
        .http2_initial_stream_window_size(STREAM_WINDOW)
        .http2_initial_connection_window_size(CONNECTION_WINDOW)
        .build::<_, Body>(https);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(hyper);
    Ok(Client::new(service, config.default_namespace.clone()))
}
