//! A connection whose other end says what is written beforehand, in pieces of any size, and whose every written byte is kept.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How what is read is cut.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Cut {
    /// As much as there is room for.
    Whole,
    /// This many bytes at once.
    Pieces(usize),
}

/// A connection whose other end is written beforehand.
#[derive(Debug)]
pub(crate) struct Scripted {
    input: Vec<u8>,
    at: usize,
    cut: Cut,
    /// The other end is silent until something was written to it, as a server is.
    is_server: bool,
    written: Written,
}

/// What was written, also after the connection is gone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Written(Arc<Mutex<Vec<u8>>>);

impl Written {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn extend(&self, bytes: &[u8]) {
        let mut written = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        written.extend_from_slice(bytes);
    }

    fn is_empty(&self) -> bool {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_empty()
    }
}

impl Scripted {
    /// The other end is a client that says this and then ends.
    pub(crate) fn client(input: &[u8], cut: Cut) -> Self {
        Self {
            input: input.to_vec(),
            at: 0,
            cut,
            is_server: false,
            written: Written::default(),
        }
    }

    /// The other end is a server that waits for the first byte, says this and ends.
    pub(crate) fn server(input: &[u8], cut: Cut) -> Self {
        Self {
            is_server: true,
            ..Self::client(input, cut)
        }
    }

    pub(crate) fn written(&self) -> Written {
        self.written.clone()
    }
}

impl AsyncRead for Scripted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_server && self.written.is_empty() {
            // Nobody else will wake this task: it asks again on its next turn.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let left = self.input.len() - self.at;
        let most = match self.cut {
            Cut::Whole => left,
            Cut::Pieces(size) => size.min(left),
        };
        let end = self.at + most.min(to.remaining());
        to.put_slice(&self.input[self.at..end]);
        self.at = end;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Scripted {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.written.extend(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
