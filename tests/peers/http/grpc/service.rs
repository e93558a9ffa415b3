//! The service `underpass.test.Echo`, written by hand as the generator would: four methods and two messages do not want one.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{Stream, stream};
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service};
use tonic::server::{
    ClientStreamingService, Grpc, NamedService, ServerStreamingService, StreamingService,
    UnaryService,
};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

/// Name of the service.
pub(super) const NAME: &str = "underpass.test.Echo";

/// A question.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Ask {
    /// Which of the stream.
    #[prost(uint32, tag = "1")]
    pub(super) number: u32,
    /// Answers to send, where they are a stream.
    #[prost(uint32, tag = "2")]
    pub(super) answers: u32,
    /// Bytes that come back.
    #[prost(bytes = "vec", tag = "3")]
    pub(super) payload: Vec<u8>,
    /// What to end with; after the answers, where they are a stream.
    #[prost(uint32, tag = "4")]
    pub(super) status: u32,
    /// How long to wait before the first answer.
    #[prost(uint32, tag = "5")]
    pub(super) delay_ms: u32,
}

/// An answer.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Answer {
    /// Which of the stream.
    #[prost(uint32, tag = "1")]
    pub(super) number: u32,
    /// Questions that were heard before.
    #[prost(uint32, tag = "2")]
    pub(super) saw: u32,
    /// Who answers.
    #[prost(string, tag = "3")]
    pub(super) server: String,
    /// `grpc-timeout` as it came.
    #[prost(string, tag = "4")]
    pub(super) deadline: String,
    /// The bytes of the question.
    #[prost(bytes = "vec", tag = "5")]
    pub(super) payload: Vec<u8>,
}

/// The service.
#[derive(Clone, Debug)]
pub(super) struct Echo {
    name: Arc<str>,
}

impl Echo {
    pub(super) fn new(name: String) -> Self {
        Self { name: name.into() }
    }

    fn answer(&self, ask: &Ask, deadline: &str, saw: u32) -> Answer {
        Answer {
            number: ask.number,
            saw,
            server: (*self.name).to_owned(),
            deadline: deadline.to_owned(),
            payload: ask.payload.clone(),
        }
    }
}

impl NamedService for Echo {
    const NAME: &'static str = NAME;
}

type Answers = Pin<Box<dyn Stream<Item = Result<Answer, Status>> + Send>>;

/// Returns the status that was asked for, with a message beyond ASCII and a field in the trailers.
fn end(status: u32) -> Result<(), Status> {
    let code = Code::from(i32::try_from(status).unwrap_or(2));
    if code == Code::Ok {
        return Ok(());
    }
    let mut status = Status::new(code, "as asked: \u{e4}%\n");
    let value = tonic::metadata::MetadataValue::from_static("1");
    status.metadata_mut().insert("x-why", value);
    Err(status)
}

async fn pause(ask: &Ask) {
    if ask.delay_ms > 0 {
        tokio::time::sleep(Duration::from_millis(ask.delay_ms.into())).await;
    }
}

fn deadline<T>(request: &Request<T>) -> String {
    let value = request.metadata().get("grpc-timeout");
    value
        .and_then(|value| value.to_str().ok())
        .unwrap_or("")
        .to_owned()
}

struct Unary(Echo);

impl UnaryService<Ask> for Unary {
    type Response = Answer;
    type Future = BoxFuture<Response<Answer>, Status>;

    fn call(&mut self, request: Request<Ask>) -> Self::Future {
        let echo = self.0.clone();
        Box::pin(async move {
            let deadline = deadline(&request);
            let ask = request.into_inner();
            pause(&ask).await;
            end(ask.status)?;
            Ok(Response::new(echo.answer(&ask, &deadline, 1)))
        })
    }
}

struct ClientStream(Echo);

impl ClientStreamingService<Ask> for ClientStream {
    type Response = Answer;
    type Future = BoxFuture<Response<Answer>, Status>;

    fn call(&mut self, request: Request<Streaming<Ask>>) -> Self::Future {
        let echo = self.0.clone();
        Box::pin(async move {
            let deadline = deadline(&request);
            let mut asks = request.into_inner();
            let (mut saw, mut last) = (0, Ask::default());
            while let Some(ask) = asks.message().await? {
                (saw, last) = (saw + 1, ask);
            }
            pause(&last).await;
            end(last.status)?;
            Ok(Response::new(echo.answer(&last, &deadline, saw)))
        })
    }
}

struct ServerStream(Echo);

impl ServerStreamingService<Ask> for ServerStream {
    type Response = Answer;
    type ResponseStream = Answers;
    type Future = BoxFuture<Response<Answers>, Status>;

    fn call(&mut self, request: Request<Ask>) -> Self::Future {
        let echo = self.0.clone();
        Box::pin(async move {
            let deadline = deadline(&request);
            let ask = request.into_inner();
            pause(&ask).await;
            let mut answers: Vec<_> = (0..ask.answers)
                .map(|number| {
                    Ok(echo.answer(
                        &Ask {
                            number,
                            ..ask.clone()
                        },
                        &deadline,
                        1,
                    ))
                })
                .collect();
            answers.extend(end(ask.status).err().map(Err));
            Ok(Response::new(Box::pin(stream::iter(answers)) as Answers))
        })
    }
}

struct Both(Echo);

impl StreamingService<Ask> for Both {
    type Response = Answer;
    type ResponseStream = Answers;
    type Future = BoxFuture<Response<Answers>, Status>;

    fn call(&mut self, request: Request<Streaming<Ask>>) -> Self::Future {
        let echo = self.0.clone();
        Box::pin(async move {
            let deadline = deadline(&request);
            let state = (request.into_inner(), 0, echo, deadline);
            // Each question is answered as it comes; a status that it asks for is the end.
            let answers = stream::try_unfold(state, |(mut asks, saw, echo, deadline)| async move {
                let Some(ask) = asks.message().await? else {
                    return Ok(None);
                };
                pause(&ask).await;
                end(ask.status)?;
                let answer = echo.answer(&ask, &deadline, saw + 1);
                Ok(Some((answer, (asks, saw + 1, echo, deadline))))
            });
            Ok(Response::new(Box::pin(answers) as Answers))
        })
    }
}

impl Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let echo = self.clone();
        Box::pin(async move {
            let mut grpc = Grpc::new(ProstCodec::<Answer, Ask>::default());
            let path = request.uri().path().strip_prefix("/").unwrap_or_default();
            let method = path.strip_prefix(NAME).unwrap_or_default();
            Ok(match method {
                "/Unary" => grpc.unary(Unary(echo), request).await,
                "/ClientStream" => grpc.client_streaming(ClientStream(echo), request).await,
                "/ServerStream" => grpc.server_streaming(ServerStream(echo), request).await,
                "/Both" => grpc.streaming(Both(echo), request).await,
                _ => Status::unimplemented("no such method").into_http(),
            })
        })
    }
}
