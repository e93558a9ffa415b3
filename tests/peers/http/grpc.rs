//! gRPC by tonic, both ends: all four kinds of calls, deadlines, trailers, errors.

mod service;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use futures_util::stream;
use http::uri::PathAndQuery;
use serde_json::{Value, json};
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use service::{Answer, Ask, Echo};

/// A server.
#[derive(Args, Debug)]
pub(crate) struct Serve {
    /// Where to listen.
    #[arg(long)]
    listen: SocketAddr,
    /// Who to answer as.
    #[arg(long)]
    name: String,
}

/// Serves for ever.
pub(crate) async fn serve(options: Serve) -> Result<()> {
    let listener = tokio::net::TcpListener::bind(options.listen).await;
    let listener = listener.with_context(|| format!("failed to listen on {}", options.listen))?;
    println!("ready");
    let incoming = stream::unfold(listener, |listener| async move {
        Some((listener.accept().await.map(|accepted| accepted.0), listener))
    });
    let server = Server::builder()
        .tcp_nodelay(true)
        .add_service(Echo::new(options.name));
    server
        .serve_with_incoming(incoming)
        .await
        .context("the server ended")
}

/// Kinds of calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    Unary,
    ClientStream,
    ServerStream,
    Both,
}

/// Calls.
#[derive(Args, Debug)]
pub(crate) struct Call {
    /// Whom.
    #[arg(long)]
    connect: SocketAddr,
    /// `:authority`.
    #[arg(long, default_value = "service")]
    host: String,
    /// Kind.
    #[arg(long, value_enum, default_value_t = Kind::Unary)]
    kind: Kind,
    /// Calls, one after the other on one connection.
    #[arg(long, default_value_t = 1)]
    calls: usize,
    /// Messages in each direction that streams.
    #[arg(long, default_value_t = 1)]
    messages: u32,
    /// Bytes of each message.
    #[arg(long, default_value_t = 16)]
    size: u32,
    /// The status to ask for, by number.
    #[arg(long, default_value_t = 0)]
    status: u32,
    /// How long to have the server wait, in milliseconds.
    #[arg(long, default_value_t = 0)]
    delay: u32,
    /// The deadline, in milliseconds.
    #[arg(long)]
    deadline: Option<u64>,
    /// The method to call instead of the kind's own.
    #[arg(long)]
    method: Option<String>,
}

/// Makes the calls, and says for each what came.
pub(crate) async fn call(options: Call) -> Result<()> {
    let origin = format!("http://{}", options.host)
        .parse()
        .context("no host")?;
    let endpoint = Endpoint::from_shared(format!("http://{}", options.connect));
    let endpoint = endpoint.context("no address")?.origin(origin);
    let channel = endpoint.connect().await.context("failed to connect")?;
    let mut client = tonic::client::Grpc::new(channel);
    for _ in 0..options.calls {
        let outcome = match client.ready().await {
            Ok(()) => once(&mut client, &options).await,
            Err(error) => Err(Status::unavailable(format!("{error:?}"))),
        };
        super::say(&outcome.unwrap_or_else(|status| of_status(&status)));
    }
    Ok(())
}

type Client = tonic::client::Grpc<tonic::transport::Channel>;
type Codec = ProstCodec<Ask, Answer>;

async fn once(client: &mut Client, options: &Call) -> Result<Value, Status> {
    let ask = |number| Ask {
        number,
        answers: options.messages,
        payload: vec![b'x'; usize::try_from(options.size).unwrap_or(0)],
        status: options.status,
        delay_ms: options.delay,
    };
    let of_kind = match options.kind {
        Kind::Unary => "Unary",
        Kind::ClientStream => "ClientStream",
        Kind::ServerStream => "ServerStream",
        Kind::Both => "Both",
    };
    let method = options.method.as_deref().unwrap_or(of_kind);
    let path = PathAndQuery::try_from(format!("/{}/{method}", service::NAME));
    let path = path.map_err(|error| Status::internal(error.to_string()))?;
    let codec = Codec::default();
    let asks = stream::iter((0..options.messages).map(ask).collect::<Vec<_>>());
    match options.kind {
        Kind::Unary => {
            let answer = client
                .unary(with_deadline(ask(0), options), path, codec)
                .await?;
            Ok(of_answer(&answer))
        }
        Kind::ClientStream => {
            let request = with_deadline(asks, options);
            let answer = client.client_streaming(request, path, codec).await?;
            Ok(of_answer(&answer))
        }
        Kind::ServerStream => {
            let request = with_deadline(ask(0), options);
            let answers = client.server_streaming(request, path, codec).await?;
            all(answers).await
        }
        Kind::Both => {
            let answers = client
                .streaming(with_deadline(asks, options), path, codec)
                .await?;
            all(answers).await
        }
    }
}

fn with_deadline<T>(message: T, options: &Call) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(milliseconds) = options.deadline {
        request.set_timeout(Duration::from_millis(milliseconds));
    }
    request
}

fn of_answer(answer: &Response<Answer>) -> Value {
    let fields = answer.metadata().clone().into_headers();
    json!({"code": 0, "answers": 1, "server": answer.get_ref().server, "saw": answer.get_ref().saw,
        "deadline": answer.get_ref().deadline, "fields": names(&fields)})
}

/// Reads a stream of answers to its end, which may be an error after some of them.
async fn all(answers: Response<Streaming<Answer>>) -> Result<Value, Status> {
    let fields = answers.metadata().clone().into_headers();
    let mut answers = answers.into_inner();
    let (mut count, mut last) = (0_u32, Answer::default());
    loop {
        match answers.message().await {
            Ok(Some(answer)) if answer.number == count => (count, last) = (count + 1, answer),
            Ok(Some(answer)) => {
                let why = format!("answer {} instead of {count}", answer.number);
                return Err(Status::data_loss(why));
            }
            Ok(None) => break,
            Err(status) => {
                let mut value = of_status(&status);
                value["answers"] = count.into();
                return Ok(value);
            }
        }
    }
    let trailers = answers.trailers().await?.unwrap_or_default().into_headers();
    Ok(
        json!({"code": 0, "answers": count, "server": last.server, "saw": last.saw, "deadline": last.deadline,
        "fields": names(&fields), "trailers": names(&trailers)}),
    )
}

fn of_status(status: &Status) -> Value {
    let trailers = status.metadata().clone().into_headers();
    json!({"code": i32::from(status.code()), "message": status.message(), "answers": 0, "trailers": names(&trailers)})
}

fn names(fields: &http::HeaderMap) -> Value {
    fields.keys().map(http::HeaderName::as_str).collect()
}
