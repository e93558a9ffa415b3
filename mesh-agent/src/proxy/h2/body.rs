//! The body of a request or a response that comes by a stream.

use std::future::poll_fn;

use bytes::Bytes;
use h2::RecvStream;

use super::fields;
use crate::proxy::exchange::{BodyError, BodySize, Incoming, Piece};

/// A body that is received. The sender may send on as pieces are asked for, not as they come.
#[derive(Debug)]
pub struct Body {
    /// None where none came.
    stream: Option<RecvStream>,
    size: BodySize,
    /// Bytes handed out that the sender has not been given room for yet.
    held: usize,
}

impl Body {
    pub(super) fn new(stream: RecvStream, size: BodySize) -> Self {
        Self {
            stream: (size != BodySize::Empty).then_some(stream),
            size,
            held: 0,
        }
    }

    async fn data(&mut self) -> Result<Option<Bytes>, BodyError> {
        let Some(stream) = &mut self.stream else {
            return Ok(None);
        };
        if self.held > 0 {
            let held = std::mem::take(&mut self.held);
            // Fails only for more than was received.
            stream
                .flow_control()
                .release_capacity(held)
                .map_err(|_| BodyError::Protocol)?;
        }
        loop {
            match poll_fn(|cx| stream.poll_data(cx)).await {
                Some(Ok(data)) if data.is_empty() => {}
                Some(Ok(data)) => {
                    self.held = data.len();
                    return Ok(Some(data));
                }
                Some(Err(why)) => return Err(error(&why)),
                None => return Ok(None),
            }
        }
    }
}

impl Incoming for Body {
    fn size(&self) -> BodySize {
        self.size
    }

    async fn next(&mut self) -> Result<Option<Piece>, BodyError> {
        if let Some(data) = self.data().await? {
            return Ok(Some(Piece::Data(data)));
        }
        let Some(mut stream) = self.stream.take() else {
            return Ok(None);
        };
        match poll_fn(|cx| stream.poll_trailers(cx)).await {
            Ok(Some(map)) => Ok(Some(Piece::Trailers(fields::from_trailers(&map)))),
            Ok(None) => Ok(None),
            Err(why) => Err(error(&why)),
        }
    }
}

fn error(why: &h2::Error) -> BodyError {
    if why.is_library() {
        BodyError::Protocol
    } else {
        BodyError::Reset
    }
}
