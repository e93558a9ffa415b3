//! Sending a body on a stream, as fast as the peer's windows and the socket let it.

use std::future::poll_fn;

use bytes::Bytes;
use h2::SendStream;

use crate::l7::message::Fields;

use super::fields;

/// Nothing more can be sent: the peer has reset the stream, or the connection is gone.
#[derive(Clone, Copy, Debug)]
pub(super) struct Broken;

/// Sends `data`, and with `end` the end of the body. Returns when all is in the stream's buffer, which is bounded.
pub(super) async fn data(
    stream: &mut SendStream<Bytes>,
    mut data: Bytes,
    end: bool,
) -> Result<(), Broken> {
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        let room = match stream.capacity() {
            0 => match poll_fn(|cx| stream.poll_capacity(cx)).await {
                Some(Ok(room)) => room,
                Some(Err(_)) | None => return Err(Broken),
            },
            room => room,
        };
        let piece = data.split_to(room.min(data.len()));
        let last = end && data.is_empty();
        stream.send_data(piece, last).map_err(|_| Broken)?;
        if last {
            return Ok(());
        }
    }
    if end {
        stream.send_data(Bytes::new(), true).map_err(|_| Broken)?;
    }
    Ok(())
}

/// Ends the body with trailers.
pub(super) fn trailers(stream: &mut SendStream<Bytes>, trailers: &Fields) -> Result<(), Broken> {
    let map = fields::to_trailers(trailers);
    stream.send_trailers(map).map_err(|_| Broken)
}
