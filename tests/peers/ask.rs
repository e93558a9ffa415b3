//! A client that asks for one URL, and says what came as JSON: each answer, or of many how many were answered by whom.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use clap::Args;
use harness::conformance::Seen;
use http::{Request, Response, Uri, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Time for an answer: longer than any that is to come.
const PATIENCE: Duration = Duration::from_secs(20);

/// Connections that many requests go by, unless each is to have its own.
const CONNECTIONS: u32 = 10;

/// Between two requests that go on: enough of them to see every gap, and few enough to leave the machine to others.
const BREATH: Duration = Duration::from_millis(5);

/// What to ask for.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// The method.
    #[arg(long, default_value = "GET")]
    method: http::Method,
    /// A field, as `NAME: VALUE`; `host` takes the place of the URL's.
    #[arg(long, value_parser = field)]
    field: Vec<(String, String)>,
    /// HTTP/2 from the first byte on.
    #[arg(long)]
    http2: bool,
    /// Requests. Of several, those who answered are counted: by `x-backend`, else by status.
    #[arg(long, default_value_t = 1)]
    count: u32,
    /// Go on, by a new connection each time, until a signal comes, and say then how many were answered by whom.
    #[arg(long, conflicts_with = "count")]
    steadily: bool,
    /// End that by a line, or the end, of standard input, too.
    #[arg(long, requires = "steadily")]
    told: bool,
    /// The URL; its host is an address.
    url: Uri,
}

fn field(text: &str) -> Result<(String, String)> {
    let (name, value) = text.split_once(':').context("write `NAME: VALUE`")?;
    Ok((name.to_owned(), value.trim().to_owned()))
}

/// Asks, and says what came.
pub(crate) fn run(options: &Options) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("failed to make a runtime")?;
    runtime.block_on(async {
        if options.steadily {
            return steadily(options).await;
        }
        if options.count == 1 {
            let seen = once(options).await;
            println!("{}", serde_json::to_string(&seen)?);
            return Ok(());
        }
        println!("{}", json!({"answers": many(options).await}));
        Ok(())
    })
}

/// Returns what came of one request by a connection of its own.
async fn once(options: &Options) -> Seen {
    let asked = timeout(PATIENCE, async {
        let mut connection = Connection::open(options).await?;
        connection.ask(options).await
    });
    let error = |text: String| Seen {
        error: Some(text),
        ..Seen::default()
    };
    match asked.await {
        Ok(Ok(seen)) => seen,
        Ok(Err(why)) => error(format!("{why:#}")),
        Err(_) => error(format!("no answer within {PATIENCE:?}")),
    }
}

async fn many(options: &Options) -> BTreeMap<String, u32> {
    let mut tasks = JoinSet::new();
    for number in 0..CONNECTIONS {
        let share = options.count / CONNECTIONS + u32::from(number < options.count % CONNECTIONS);
        tasks.spawn(row(options.clone(), share));
    }
    let mut answers = BTreeMap::new();
    for row in tasks.join_all().await {
        for (who, count) in row {
            *answers.entry(who).or_default() += count;
        }
    }
    answers
}

/// Makes requests one after the other, and returns who answered how many.
async fn row(options: Options, count: u32) -> BTreeMap<String, u32> {
    let closes = options.closes();
    let mut answers = BTreeMap::new();
    let mut connection = None;
    for _ in 0..count {
        let asked = async {
            let mut open = match connection.take() {
                Some(open) => open,
                None => Connection::open(&options).await?,
            };
            let seen = open.ask(&options).await?;
            anyhow::Ok((seen, open))
        };
        let who = match timeout(PATIENCE, asked).await {
            Ok(Ok((seen, open))) => {
                connection = Some(open).filter(|_| !closes);
                who(&seen)
            }
            Ok(Err(why)) => format!("{why:#}"),
            Err(_) => "late".to_owned(),
        };
        *answers.entry(who).or_default() += 1;
    }
    answers
}

/// Asks until it is told to stop, by a new connection each time.
async fn steadily(options: &Options) -> Result<()> {
    let mut answers = BTreeMap::new();
    let mut stop = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let (told, mut line) = tokio::sync::mpsc::channel(1);
    if options.told {
        let told = told.clone();
        std::thread::spawn(move || {
            let mut text = String::new();
            // The end of the input is an end, too.
            std::io::stdin().read_line(&mut text).ok();
            told.blocking_send(()).ok();
        });
    }
    println!("ready");
    loop {
        tokio::select! {
            biased;
            _ = stop.recv() => break,
            _ = line.recv() => break,
            seen = once(options) => *answers.entry(who(&seen)).or_insert(0_u64) += 1,
        }
        tokio::time::sleep(BREATH).await;
    }
    drop(told);
    println!("{}", json!({"answers": answers}));
    Ok(())
}

fn who(seen: &Seen) -> String {
    match (&seen.error, seen.field("x-backend")) {
        (Some(error), _) => error.clone(),
        (None, Some(name)) if seen.status == 200 => name,
        (None, _) => seen.status.to_string(),
    }
}

impl Options {
    /// Returns whether each request has a connection of its own.
    fn closes(&self) -> bool {
        let mut fields = self.field.iter();
        fields.any(|(name, value)| name == "connection" && value == "close")
    }

    fn address(&self) -> Result<SocketAddr> {
        let host = self.url.host().context("a URL without a host")?;
        let port = self.url.port_u16().unwrap_or(80);
        let address = format!("{host}:{port}").parse();
        address.with_context(|| format!("`{host}` is no address"))
    }

    fn request(&self) -> Result<Request<Empty<Bytes>>> {
        let mut fields = self.field.iter();
        let host = fields
            .find(|(name, _)| name == "host")
            .map(|it| it.1.as_str());
        let authority = self.url.authority().context("a URL without a host")?;
        let host = host.unwrap_or(authority.as_str());
        let target = self.url.path_and_query().map_or("/", |it| it.as_str());
        let mut request = Request::builder().method(self.method.clone());
        request = match self.http2 {
            true => request.uri(format!("http://{host}{target}")),
            false => request.uri(target).header(header::HOST, host),
        };
        for (name, value) in self.field.iter().filter(|(name, _)| name != "host") {
            request = request.header(name.to_ascii_lowercase(), value);
        }
        request.body(Empty::new()).context("no request")
    }
}

/// A connection of either version.
enum Connection {
    One(http1::SendRequest<Empty<Bytes>>),
    Two(http2::SendRequest<Empty<Bytes>>),
}

impl Connection {
    async fn open(options: &Options) -> Result<Self> {
        let address = options.address()?;
        let stream = TcpStream::connect(address).await;
        let stream = stream.with_context(|| format!("failed to connect to {address}"))?;
        stream.set_nodelay(true)?;
        let stream = TokioIo::new(stream);
        if options.http2 {
            let (sender, driver) = http2::handshake(TokioExecutor::new(), stream).await?;
            tokio::spawn(driver);
            return Ok(Self::Two(sender));
        }
        let (sender, driver) = http1::handshake(stream).await?;
        tokio::spawn(driver);
        Ok(Self::One(sender))
    }

    async fn ask(&mut self, options: &Options) -> Result<Seen> {
        let request = options.request()?;
        let response = match self {
            Self::One(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Self::Two(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
        };
        read(response).await
    }
}

async fn read(response: Response<Incoming>) -> Result<Seen> {
    let text = |value: &header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let (head, body) = response.into_parts();
    let mut fields: Vec<(String, String)> = head
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), text(value)))
        .collect();
    let body = body.collect().await.context("the answer breaks off")?;
    let trailers = body.trailers().into_iter().flatten();
    fields.extend(trailers.map(|(name, value)| (name.to_string(), text(value))));
    Ok(Seen {
        status: head.status.as_u16(),
        fields,
        body: String::from_utf8_lossy(&body.to_bytes()).into_owned(),
        error: None,
    })
}
