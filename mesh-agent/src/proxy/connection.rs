//! The life of a client's connection: what it speaks, and who serves it.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::BytesMut;
use rustix::net::sockopt::set_socket_linger;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::chance::Chance;
use crate::l7::cluster::{Ask, Cluster, InFlight, Outcome, Picked, hash};
use crate::l7::route::{AppProtocol, OpaqueRule, Routed};
use crate::model::balanced::{Carries, PortId, Upstream};
use crate::proxy::arrival::{Arrival, FirstRead};
use crate::proxy::detect::{Guess, HELLO, Hello, Protocol, SILENCE, detect, guess, version};
use crate::proxy::exchange::{Config, Destination, Exchange, Room};
use crate::proxy::h1::Kit;
use crate::proxy::life::Life;
use crate::proxy::pool::ConnectError;
use crate::proxy::record::{Client, RelayEnd, RelayRecord};
use crate::proxy::shelf::Shelf;
use crate::proxy::stream::Stream;
use crate::proxy::tcp::{self, Counts, End, Options, Side, Spares, Way};
use crate::proxy::{h1, h2};

/// What the connections of a thread are served with.
#[derive(Debug)]
pub(super) struct Serving {
    pub(super) room: Arc<Room>,
    pub(super) h1: h1::Limits,
    h2: h2::Limits,
    spares: Spares,
    first: FirstRead,
    kits: Shelf<Kit>,
}

impl Serving {
    pub(super) fn new(room: Arc<Room>, h1: h1::Limits, h2: h2::Limits) -> Self {
        Self {
            room,
            h1,
            h2,
            spares: Spares::default(),
            first: FirstRead::default(),
            kits: Shelf::default(),
        }
    }
}

/// What is done with the bytes of a connection.
enum Plan {
    /// They are requests, of either version.
    Http,
    /// The first of them say what they are.
    Detect,
    /// They begin with a `ClientHello`.
    Tls,
    /// They are passed on.
    Opaque,
}

impl Plan {
    /// By what is known of the port: routes tell what is wanted, the port's own protocol what is spoken.
    fn of(config: &Config, client: &Client) -> Self {
        let Some(table) = config.tables.port(&client.port) else {
            return Self::Detect;
        };
        match (table.routed(&client.workload.namespace), table.protocol) {
            (Some(Routed::Tls(_)), _) => Self::Tls,
            (Some(Routed::Opaque(_)), _) | (None, AppProtocol::Tcp | AppProtocol::Tls) => {
                Self::Opaque
            }
            (Some(Routed::Http(_)), _)
            | (None, AppProtocol::Http | AppProtocol::Http2 | AppProtocol::Grpc) => Self::Http,
            (None, AppProtocol::Detect | AppProtocol::Udp) => Self::Detect,
        }
    }
}

/// Serves a connection until its end.
pub(super) async fn serve(
    stream: std::net::TcpStream,
    client: Client,
    serving: &Serving,
    life: &Life,
    drain: &watch::Sender<bool>,
) {
    life.set_idle(true);
    let mut arrival = Arrival::New(stream);
    let Ok((protocol, start)) = spoken(&mut arrival, &client, serving).await else {
        return;
    };
    life.set_idle(false);
    if protocol == Protocol::Http1 {
        let exchange = Exchange::new(serving.room.clone(), client);
        let stream = Stream::accepted(arrival);
        return h1::serve(stream, start, &exchange, &serving.kits, &serving.h1, life).await;
    }
    let Ok(stream) = arrival.into_known() else {
        return;
    };
    match protocol {
        // Far larger than HTTP/1 needs.
        Protocol::Http1 | Protocol::Http2 => {
            let exchange = Arc::new(Exchange::new(serving.room.clone(), client));
            let (stream, drained) = (Stream::Plain(stream), drained(drain.subscribe()));
            let limits = &serving.h2;
            Box::pin(h2::serve(stream, start, &exchange, limits, life, drained)).await;
        }
        Protocol::Tls(hello) => {
            Box::pin(pass_on(stream, start, Some(&hello), &client, serving)).await;
        }
        Protocol::Opaque => {
            Box::pin(pass_on(stream, start, None, &client, serving)).await;
        }
    }
}

/// Returns what a connection speaks, and the bytes that were read to tell.
async fn spoken(
    arrival: &mut Arrival,
    client: &Client,
    serving: &Serving,
) -> io::Result<(Protocol, BytesMut)> {
    let plan = Plan::of(&serving.room.config.load(), client);
    if let Plan::Opaque = plan {
        return Ok((Protocol::Opaque, BytesMut::new()));
    }
    let mut start = serving.first.read(arrival)?;
    let protocol = match plan {
        Plan::Http => match version(&start) {
            Some(protocol) => protocol,
            None => first(arrival.known()?, &mut start, &serving.h1).await?,
        },
        Plan::Detect | Plan::Tls | Plan::Opaque => match guess(&start) {
            Guess::Is(protocol) => protocol,
            Guess::Hello | Guess::Undecided => {
                let stream = arrival.known()?;
                Box::pin(detect(stream, &mut start, SILENCE, HELLO)).await?
            }
        },
    };
    Ok((protocol, start))
}

/// Waits until connections that have to say something to it are told to end.
async fn drained(mut drain: watch::Receiver<bool>) {
    // Without a sender the worker is gone, and this task with it.
    while !*drain.borrow_and_update() && drain.changed().await.is_ok() {}
}

/// Room for the first bytes of a connection: a first request, mostly.
const FIRST: usize = 4 * 1024;

/// Reads until it is clear which version of HTTP the client speaks. One that is silent waits as for its next request: it may have
/// connected before it has any. What it begins is a head.
async fn first(
    stream: &mut TcpStream,
    start: &mut BytesMut,
    limits: &h1::Limits,
) -> io::Result<Protocol> {
    let mut has_begun = !start.is_empty();
    let most = match has_begun {
        true => limits.head_time,
        false => limits.idle_time,
    };
    let mut until = Instant::now() + most;
    loop {
        if let Some(version) = version(start) {
            return Ok(version);
        }
        if !has_begun && !start.is_empty() {
            (has_begun, until) = (true, Instant::now() + limits.head_time);
        }
        let read = async {
            // No memory for who is silent. Then not `try_read`, which learns from an error only that there is no more.
            poll_fn(|cx| stream.poll_read_ready(cx)).await?;
            start.reserve(FIRST);
            stream.read_buf(start).await
        };
        if tokio::time::timeout_at(until, read).await?? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// Passes a connection on to an endpoint, byte by byte; what cannot be passed on is reset. `hello`: it is known to be of TLS.
async fn pass_on(
    mut stream: TcpStream,
    mut start: BytesMut,
    hello: Option<&Hello>,
    client: &Client,
    serving: &Serving,
) {
    let room = &serving.room;
    let began = Instant::now();
    let server = hello.and_then(|it| it.server_name.as_deref());
    let mut story = Story {
        room,
        client,
        server,
        began,
        destination: None,
        endpoint: None,
        connected: began,
        counts: Counts::default(),
        end: RelayEnd::NoEndpoint,
    };
    let mut chance = Chance::random();
    let Some(destination) = destination(server, client, &room.config.load(), &mut chance) else {
        return reset(&stream);
    };
    // Never in plain text where TLS is asked for, and not around what is no HTTP. Whoever speaks it itself needs nobody for that.
    let is_plain = destination.wrap.is_some() && hello.is_none();
    if is_plain && !says_hello(&mut stream, &mut start).await {
        tracing::debug!(service = %client.port.service, "TLS to backends is for HTTP only: the connection is reset");
        return reset(&stream);
    }
    let cluster = &destination.cluster;
    story.destination = Some(cluster.id.clone());
    let reached = reach(cluster, &mut story, &mut chance).await;
    let Some((connected, _picked, _open)) = reached else {
        return reset(&stream);
    };
    let options = Options {
        // Both are in the socket map, if their applications are.
        way: Way::Copy,
        idle: room.limits.tunnel_idle,
        spares: &serving.spares,
    };
    let end = tcp::relay(stream, connected, &start, &story.counts, options).await;
    story.end = match end {
        End::Closed => RelayEnd::Closed,
        End::Reset(Side::Client) => RelayEnd::ClientReset,
        End::Reset(Side::Upstream) => RelayEnd::UpstreamReset,
        End::Idle => RelayEnd::Idle,
    };
}

/// Returns whether a connection that nobody has looked into begins with a `ClientHello`, which is read into `start`.
async fn says_hello(stream: &mut TcpStream, start: &mut BytesMut) -> bool {
    let protocol = detect(stream, start, SILENCE, HELLO).await;
    matches!(protocol, Ok(Protocol::Tls(_)))
}

/// Connects to an endpoint, and to another one, once, where it is not there. `None`: to none, and the story says why.
async fn reach(
    cluster: &Cluster,
    story: &mut Story<'_>,
    chance: &mut Chance,
) -> Option<(TcpStream, Picked, InFlight)> {
    let (room, client) = (story.room, story.client);
    let mut tried = Vec::new();
    loop {
        let now = Instant::now();
        // Of all that policies may name, bytes that nobody looks into have their source alone.
        let ask = Ask {
            hash: Some(hash::of_source(client.address.ip())),
            v6: client.address.is_ipv6(),
            tried: &tried,
            ..Ask::default()
        };
        let picked = cluster.pick(&ask, chance, room.now(now)).ok()?;
        story.endpoint = Some(picked.address());
        let Ok(open) = cluster.admit_connection() else {
            story.end = RelayEnd::Overflow;
            return None;
        };
        // Whatever drops this.
        story.end = RelayEnd::Agent;
        let upstream = Upstream {
            service: &client.port,
            dialled: client.dialled,
            backend: &cluster.id,
            address: picked.address(),
            carries: Carries::Bytes,
        };
        let connected = room.pool.single(client.netns, &upstream).await;
        story.connected = Instant::now();
        let took = u64::try_from((story.connected - now).as_nanos()).unwrap_or(u64::MAX);
        let now = room.now(story.connected);
        let error = match connected {
            Ok(connected) => {
                picked.report(Outcome::Status(200), took, now);
                return Some((connected, picked, open));
            }
            Err(error) => error,
        };
        story.end = end_of(&error);
        tried.push(picked.address());
        picked.done(error.outcome(), took, now);
        // As for requests: what nobody has seen may go to another endpoint, but what policy denies is not tried elsewhere.
        if tried.len() > 1 || matches!(error, ConnectError::Denied) {
            return None;
        }
    }
}

/// Returns how a connection ends that comes to no other.
fn end_of(error: &ConnectError) -> RelayEnd {
    match error {
        ConnectError::Denied => RelayEnd::Denied,
        ConnectError::Local(_)
        | ConnectError::Timeout
        | ConnectError::Refused(_)
        | ConnectError::Tls(_) => RelayEnd::ConnectFailed,
    }
}

/// What is known so far of a connection that is passed on. Told when it is dropped, since the worker may end it at any time.
struct Story<'s> {
    room: &'s Room,
    client: &'s Client,
    server: Option<&'s str>,
    began: Instant,
    destination: Option<Arc<PortId>>,
    endpoint: Option<SocketAddr>,
    connected: Instant,
    counts: Counts,
    end: RelayEnd,
}

impl Drop for Story<'_> {
    fn drop(&mut self) {
        let since = |at: Instant| u64::try_from((at - self.began).as_nanos()).unwrap_or(u64::MAX);
        self.room.observer.relayed(&RelayRecord {
            client: self.client,
            destination: self.destination.as_ref(),
            endpoint: self.endpoint,
            server_name: self.server,
            end: self.end,
            received: self.counts.sent(),
            sent: self.counts.received(),
            connect_ns: since(self.connected),
            total_ns: since(Instant::now()),
        });
    }
}

/// Returns whose endpoints a connection is for; `None`: nobody's, by a rule or for want of one.
fn destination(
    server: Option<&str>,
    client: &Client,
    config: &Config,
    chance: &mut Chance,
) -> Option<Arc<Destination>> {
    let table = config.tables.port(&client.port);
    let routed = table.and_then(|table| table.routed(&client.workload.namespace));
    let mut backend = |rule: &OpaqueRule| {
        let backend = rule.backends.draw(chance.unit())?;
        config
            .destinations
            .get(&**backend.to.as_ref().ok()?)
            .cloned()
    };
    match routed {
        Some(Routed::Tls(names)) => backend(names.select(server)?),
        Some(Routed::Opaque(rule)) => backend(rule),
        Some(Routed::Http(_)) | None => config.destinations.get(&*client.port).cloned(),
    }
}

/// Has the connection reset as it is dropped.
fn reset(stream: &TcpStream) {
    // Fails only for a socket that is reset already.
    set_socket_linger(stream, Some(std::time::Duration::ZERO)).ok();
}
