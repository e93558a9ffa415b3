//! Queries and answers as bytes: what is asked, and what is said.
//!
//! Pure. Whatever comes in, the outcome is an answer, a question for somebody else, or silence.

#![forbid(unsafe_code)]

#[cfg(test)]
mod tests;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, Record, RecordType};

use crate::dns::limits;
use crate::dns::zone::{Found, Zone};

/// How a query came.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Transport {
    /// In a datagram.
    Udp,
    /// On a connection.
    Tcp,
}

/// What is to become of a query.
#[derive(Debug)]
pub(super) enum Step {
    /// No answer: it is no query.
    Silence,
    /// This answer; whether it says no.
    Reply {
        /// The message.
        bytes: Vec<u8>,
        /// Whether the query was refused.
        refused: bool,
    },
    /// Somebody else knows, or may know.
    Forward {
        /// What was asked.
        asked: Box<Asked>,
        /// For a name under the domain: that there is none, where nobody else knows it either.
        none: Option<Vec<u8>>,
    },
    /// The answer begins like this, and somebody else knows how it goes on.
    Follow {
        /// What was asked.
        asked: Box<Asked>,
        /// The aliases that lead there.
        aliases: Vec<Record>,
        /// Where they lead.
        target: Name,
        /// As in `Forward`.
        none: Option<Vec<u8>>,
    },
}

/// A query that makes sense.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    /// Its number, which the answer has to bear.
    pub(super) id: u16,
    /// What it asks for.
    pub(super) question: Query,
    /// Whether the client wants somebody else to be asked.
    pub(super) recursion: bool,
    /// Whether the client checks signatures itself.
    pub(super) checking_disabled: bool,
    /// What the client says of itself (EDNS): bytes that it takes, and whether it wants signatures.
    pub(super) edns: Option<(u16, bool)>,
    /// How it came.
    pub(super) transport: Transport,
}

/// Reads a query and looks it up.
pub(super) fn read(bytes: &[u8], transport: Transport, zone: &Zone) -> Step {
    // Answers are never answered: two servers would talk for ever.
    let (Some(&[a, b]), Some(flags)) = (bytes.first_chunk::<2>(), bytes.get(2)) else {
        return Step::Silence;
    };
    if bytes.len() < HEADER || flags & 0x80 != 0 {
        return Step::Silence;
    }
    let id = u16::from_be_bytes([a, b]);
    let op_code = OpCode::from_u8((flags >> 3) & 0x0f);
    if op_code != OpCode::Query {
        return no(&Message::error_msg(id, op_code, ResponseCode::NotImp));
    }
    let form_error = || no(&Message::error_msg(id, op_code, ResponseCode::FormErr));
    let Ok(message) = Message::from_vec(bytes) else {
        return form_error();
    };
    let [question] = &message.queries[..] else {
        return form_error();
    };
    let edns = message.edns.as_ref();
    let asked = Asked {
        id,
        question: question.clone(),
        recursion: message.metadata.recursion_desired,
        checking_disabled: message.metadata.checking_disabled,
        edns: edns.map(|edns| (edns.max_payload(), edns.flags().dnssec_ok)),
        transport,
    };
    if edns.is_some_and(|edns| edns.version() != 0) {
        return no(&asked.answer(ResponseCode::BADVERS));
    }
    if question.query_class() != DNSClass::IN || is_refused(question.query_type()) {
        return no(&asked.answer(ResponseCode::Refused));
    }
    look_up(asked, zone)
}

/// Bytes of a message's header.
const HEADER: usize = 12;

/// Returns whether this type asks for what nobody gets: whole zones, or all types at once (RFC 8482).
fn is_refused(kind: RecordType) -> bool {
    // 249 and up are no types of records but questions of other kinds; 41 and 0 are in no question.
    let number = u16::from(kind);
    (249..=255).contains(&number) || number == 41 || number == 0
}

fn look_up(asked: Asked, zone: &Zone) -> Step {
    let kind = asked.question.query_type();
    let mut aliases: Vec<Record> = Vec::new();
    let mut name = asked.question.name().clone();
    loop {
        let found = zone.find(&name, kind);
        match found {
            Found::NotOurs | Found::Unknown => {
                let none = (found == Found::Unknown)
                    .then(|| nothing(&asked, aliases.clone(), ResponseCode::NXDomain, zone));
                let asked = Box::new(asked);
                if aliases.is_empty() {
                    return Step::Forward { asked, none };
                }
                return Step::Follow {
                    asked,
                    aliases,
                    target: name,
                    none,
                };
            }
            Found::Alias(cname, target) if aliases.len() < limits::ALIASES => {
                aliases.push(*cname);
                name = target;
            }
            Found::Alias(..) => return no(&asked.answer(ResponseCode::ServFail)),
            Found::Records(records, more) => {
                let mut answer = asked.own(ResponseCode::NoError);
                answer.add_answers(aliases.into_iter().chain(records));
                answer.add_additionals(more);
                return yes(asked.fit(answer));
            }
            Found::NoData => {
                return yes(nothing(&asked, aliases, ResponseCode::NoError, zone));
            }
            Found::NoName => {
                return yes(nothing(&asked, aliases, ResponseCode::NXDomain, zone));
            }
        }
    }
}

fn nothing(asked: &Asked, aliases: Vec<Record>, code: ResponseCode, zone: &Zone) -> Vec<u8> {
    let mut answer = asked.own(code);
    answer.add_answers(aliases);
    answer.add_authority(zone.soa());
    asked.fit(answer)
}

fn yes(bytes: Vec<u8>) -> Step {
    Step::Reply {
        bytes,
        refused: false,
    }
}

fn no(answer: &Message) -> Step {
    match answer.to_vec() {
        Ok(bytes) => Step::Reply {
            bytes,
            refused: true,
        },
        Err(_) => Step::Silence,
    }
}

impl Asked {
    /// Returns an answer with nothing in it yet.
    pub(super) fn answer(&self, code: ResponseCode) -> Message {
        let mut answer = Message::response(self.id, OpCode::Query);
        answer.metadata.response_code = code;
        answer.metadata.recursion_desired = self.recursion;
        answer.metadata.recursion_available = true;
        answer.metadata.checking_disabled = self.checking_disabled;
        answer.add_query(self.question.clone());
        if let Some((_, dnssec)) = self.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(limits::UDP_BYTES);
            edns.set_dnssec_ok(dnssec);
            edns.set_rcode_high(code.high());
            answer.set_edns(edns);
        }
        answer
    }

    fn own(&self, code: ResponseCode) -> Message {
        let mut answer = self.answer(code);
        answer.metadata.authoritative = true;
        answer
    }

    /// Returns how many bytes the answer may have.
    pub(super) fn room(&self) -> usize {
        match (self.transport, self.edns) {
            (Transport::Tcp, _) => limits::ANSWER_BYTES,
            (Transport::Udp, Some((bytes, _))) => bytes
                .clamp(limits::UDP_BYTES_PLAIN, limits::UDP_BYTES)
                .into(),
            (Transport::Udp, None) => limits::UDP_BYTES_PLAIN.into(),
        }
    }

    /// Returns the answer as bytes: whole, or without what is only convenient, or as a mere hint to ask by TCP.
    pub(super) fn fit(&self, mut answer: Message) -> Vec<u8> {
        let room = self.room();
        if let Ok(bytes) = answer.to_vec()
            && bytes.len() <= room
        {
            return bytes;
        }
        answer.additionals.clear();
        if let Ok(bytes) = answer.to_vec()
            && bytes.len() <= room
        {
            return bytes;
        }
        self.cut(&answer)
    }

    /// Returns an answer that says that there is more, by TCP.
    pub(super) fn cut(&self, whole: &Message) -> Vec<u8> {
        let mut cut = self.answer(whole.metadata.response_code);
        cut.metadata.authoritative = whole.metadata.authoritative;
        cut.metadata.truncation = true;
        cut.to_vec().unwrap_or_default()
    }

    /// Returns an answer that says that nobody could be asked.
    pub(super) fn failure(&self) -> Vec<u8> {
        let answer = self.answer(ResponseCode::ServFail);
        answer.to_vec().unwrap_or_default()
    }

    /// Returns the query for an upstream name server about `name`.
    pub(super) fn query(&self, id: u16, name: &Name) -> Option<Vec<u8>> {
        let mut query = Message::new(id, MessageType::Query, OpCode::Query);
        query.metadata.recursion_desired = self.recursion;
        query.metadata.checking_disabled = self.checking_disabled;
        query.add_query(Query::query(name.clone(), self.question.query_type()));
        if let Some((_, dnssec)) = self.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(limits::UDP_BYTES);
            edns.set_dnssec_ok(dnssec);
            query.set_edns(edns);
        }
        query.to_vec().ok()
    }

    /// Returns an upstream's answer as one to this query; `None` when it makes no sense.
    ///
    /// The rest of it stays as it came: signatures hold, and types that nobody here knows pass.
    pub(super) fn adopt(&self, upstream: &[u8]) -> Option<Vec<u8>> {
        let mut bytes = upstream.to_vec();
        bytes.get_mut(..2)?.copy_from_slice(&self.id.to_be_bytes());
        // The name as the client wrote it: some compare letter by letter.
        let mut name = Vec::new();
        for label in self.question.name().iter() {
            name.push(u8::try_from(label.len()).ok()?);
            name.extend_from_slice(label);
        }
        let place = bytes.get_mut(HEADER..HEADER + name.len())?;
        if !place.eq_ignore_ascii_case(&name) {
            return None;
        }
        place.copy_from_slice(&name);
        if bytes.len() > self.room() {
            let whole = Message::from_vec(&bytes).ok()?;
            return Some(self.cut(&whole));
        }
        Some(bytes)
    }

    /// Returns the answer that begins with `aliases` and goes on as `upstream` said of their target.
    pub(super) fn join(&self, aliases: Vec<Record>, upstream: Option<&[u8]>) -> Vec<u8> {
        let more = upstream.and_then(|bytes| Message::from_vec(bytes).ok());
        let Some(more) = more else {
            return self.failure();
        };
        let mut answer = self.answer(more.metadata.response_code);
        answer.metadata.truncation = more.metadata.truncation;
        answer.add_answers(aliases);
        answer.add_answers(more.answers);
        answer.add_authorities(more.authorities);
        self.fit(answer)
    }
}

/// Returns whether `bytes` is an answer to the question that `query` asked, by number and by word.
pub(super) fn answers(bytes: &[u8], query: &[u8]) -> bool {
    // Names are not compressed in a first question, so the questions are equal byte by byte but for letters' case.
    let end = query.get(HEADER..).and_then(|rest| {
        let name = rest.iter().position(|byte| *byte == 0);
        name.map(|zero| HEADER + zero + 5)
    });
    let question = |bytes: &[u8]| bytes.get(HEADER..end?).map(<[u8]>::to_ascii_lowercase);
    let is_answer = bytes.get(2).is_some_and(|flags| flags & 0x80 != 0);
    is_answer
        && bytes.get(..2) == query.get(..2)
        && bytes.get(4..6) == Some(&[0, 1])
        && question(query).is_some()
        && question(bytes) == question(query)
}

/// Returns the response code in an answer's header.
pub(super) fn code(bytes: &[u8]) -> ResponseCode {
    let low = bytes.get(3).map_or(0, |flags| flags & 0x0f);
    ResponseCode::from(0, low)
}
