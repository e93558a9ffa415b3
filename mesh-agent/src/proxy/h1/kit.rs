//! What a request of HTTP/1 is read with, and its response written with.

use crate::l7::message::RequestHead;
use crate::proxy::h1::write::Date;
use crate::proxy::shelf::Reused;
use crate::proxy::timer::Timer;

/// A client's request, and what waits to be sent to it.
#[derive(Debug, Default)]
pub struct Kit {
    pub(super) head: RequestHead,
    pub(super) out: Vec<u8>,
    pub(super) date: Date,
    pub(super) timer: Timer,
}

impl Reused for Kit {
    fn bytes(&self) -> usize {
        size_of::<Self>() + self.head.capacity() + self.out.capacity()
    }

    fn reset(&mut self) {
        // A refusal that was not sent in time, above all.
        self.out.clear();
        self.head.clear();
    }
}
