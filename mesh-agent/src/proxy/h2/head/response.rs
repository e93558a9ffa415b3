//! A response's head, and trailers of either direction.

use http::StatusCode;

use super::{Length, Malformed};
use crate::l7::message::{Fields, ResponseHead, Version};
use crate::proxy::exchange::BodySize;
use crate::proxy::h1::may_trail;
use crate::proxy::h2::fields::Kind;
use crate::proxy::h2::hpack::Line;

/// What a response's head says besides what is passed on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::proxy::h2) struct Answer {
    pub(in crate::proxy::h2) size: BodySize,
    /// Bytes that have to come, if that is said.
    pub(in crate::proxy::h2) length: Option<u64>,
}

/// Reads lines into a head.
pub(in crate::proxy::h2) struct ResponseReader<'h> {
    head: &'h mut ResponseHead,
    malformed: bool,
    has_status: bool,
    in_fields: bool,
    length: Length,
}

impl<'h> ResponseReader<'h> {
    pub(in crate::proxy::h2) fn new(head: &'h mut ResponseHead) -> Self {
        head.clear();
        head.version = Version::Http2;
        Self {
            head,
            malformed: false,
            has_status: false,
            in_fields: false,
            length: Length::default(),
        }
    }

    /// Takes a line.
    pub(in crate::proxy::h2) fn line(&mut self, line: Line<'_>) {
        let taken = match line.kind.is_pseudo() {
            true => self.status(line),
            false => self.field(line),
        };
        self.malformed |= taken.is_err();
    }

    fn status(&mut self, line: Line<'_>) -> Result<(), Malformed> {
        if line.kind != Kind::Status || self.has_status || self.in_fields {
            return Err(Malformed);
        }
        self.has_status = true;
        // Statuses above 599 have no class, and below 100 no meaning.
        let status = StatusCode::from_bytes(line.value).ok();
        let status = status.filter(|it| it.as_u16() < 600);
        self.head.status = status.ok_or(Malformed)?;
        Ok(())
    }

    fn field(&mut self, line: Line<'_>) -> Result<(), Malformed> {
        self.in_fields = true;
        let fields = &mut self.head.fields;
        match line.kind {
            Kind::Plain | Kind::Cookie if line.secret => {
                fields.append_secret(line.name, line.value)
            }
            Kind::Plain | Kind::Cookie => fields.append(line.name, line.value),
            Kind::ContentLength => self.length.take(line.value)?,
            // Of no use in a response, and of no harm.
            Kind::Dropped | Kind::Host | Kind::Te => {}
            Kind::Connection
            | Kind::Malformed
            | Kind::Method
            | Kind::Scheme
            | Kind::Authority
            | Kind::Path
            | Kind::Status
            | Kind::Protocol => return Err(Malformed),
        }
        Ok(())
    }

    /// Ends the head of an answer, to `HEAD` if `to_head`; `ended`: nothing follows it.
    pub(in crate::proxy::h2) fn end(self, to_head: bool, ended: bool) -> Result<Answer, Malformed> {
        let Self { head, .. } = self;
        let status = head.status;
        // There is no change of protocols (section 8.6).
        if self.malformed || !self.has_status || status == StatusCode::SWITCHING_PROTOCOLS {
            return Err(Malformed);
        }
        if status.is_informational() {
            return match ended {
                true => Err(Malformed),
                false => Ok(Answer {
                    size: BodySize::Unknown,
                    length: None,
                }),
            };
        }
        let length = self.length.0;
        // How long the body would be.
        let is_bare = to_head || status == StatusCode::NOT_MODIFIED;
        if let Some(length) = length.filter(|_| is_bare) {
            let digits = length.to_string();
            head.fields.append("content-length", digits.as_bytes());
        }
        let is_empty = is_bare || status == StatusCode::NO_CONTENT;
        if ended && !is_empty && length.is_some_and(|it| it > 0) {
            return Err(Malformed);
        }
        Ok(match length {
            _ if is_empty => Answer {
                size: BodySize::Empty,
                length: Some(0),
            },
            _ if ended => Answer {
                size: BodySize::Empty,
                length,
            },
            Some(_) => Answer {
                size: BodySize::Exact(length.unwrap_or(0)),
                length,
            },
            None => Answer {
                size: BodySize::Unknown,
                length,
            },
        })
    }
}

/// Reads the lines of trailers.
#[derive(Default)]
pub(in crate::proxy::h2) struct TrailersReader {
    fields: Fields,
    malformed: bool,
}

impl TrailersReader {
    /// Takes a line; what does not belong behind a body is left out.
    pub(in crate::proxy::h2) fn line(&mut self, line: Line<'_>) {
        if line.kind.is_pseudo() || matches!(line.kind, Kind::Connection | Kind::Malformed) {
            self.malformed = true;
            return;
        }
        if !may_trail(line.name) {
            return;
        }
        if self.fields.is_empty() {
            // Calls of gRPC end with one to three, of a few bytes.
            self.fields.reserve(4, 64);
        }
        match line.secret {
            true => self.fields.append_secret(line.name, line.value),
            false => self.fields.append(line.name, line.value),
        }
    }

    pub(in crate::proxy::h2) fn end(self) -> Result<Fields, Malformed> {
        match self.malformed {
            true => Err(Malformed),
            false => Ok(self.fields),
        }
    }
}
