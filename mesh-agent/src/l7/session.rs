//! Session persistence (GEP-1619): which endpoint a client got, as a cookie or header that it sends back.
//!
//! The value is opaque and authenticated: address, backend and time under AES-256-GCM-SIV, with the route rule as associated data,
//! so that a session of one rule is none of another. It needs no nonce, since equal sessions may well look equal; so nothing here
//! draws secrets. A value that does not open, or is too old, is no session: the request is balanced, and gets a new one.
//!
//! Rules that give their sessions one name share a cookie, or header: it carries a value of each, with a dot between them. What a rule
//! cannot open may be another one's, and goes back to the client behind its own.
//!
//! The key is handed in. All agents need the same one, over restarts too, or clients change endpoints with their node.

pub mod cookie;

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::error::Unspecified;

use crate::l7::cluster::hash;
use crate::model::balanced::PortId;

/// What seals sessions. A copy is cheap.
#[derive(Clone, Debug)]
pub struct SessionKey(Arc<LessSafeKey>);

impl SessionKey {
    /// Returns the key of these bytes, which are secret and uniform.
    ///
    /// # Errors
    ///
    /// Where the library does not take a key of 32 bytes, which does not happen.
    pub fn new(bytes: &[u8; 32]) -> Result<Self, Unspecified> {
        let key = UnboundKey::new(&AES_256_GCM_SIV, bytes)?;
        Ok(Self(Arc::new(LessSafeKey::new(key))))
    }
}

/// How the sessions of one route rule are kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SessionPolicy {
    /// `sessionName`: of the cookie or header, valid for it. `None`: a name of the rule's own.
    pub name: Option<String>,
    /// By what the client sends it back.
    pub carrier: Carrier,
    /// After how many seconds a session is over, however much it is used. Needed for [`Lifetime::Permanent`].
    pub absolute_timeout_s: Option<u32>,
}

/// By what a client sends its session back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Carrier {
    /// A cookie.
    Cookie {
        /// How long the client keeps it.
        lifetime: Lifetime,
        /// `Path`: the rule's prefix where it has a single one, else `None` for all.
        path: Option<String>,
        /// `SameSite`.
        same_site: SameSite,
    },
    /// A header, which the client copies from a response to its requests.
    Header,
}

/// How long a client keeps a cookie.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Lifetime {
    /// Until it ends: neither `Expires` nor `Max-Age`.
    #[default]
    Session,
    /// Until the absolute timeout: `Max-Age`.
    Permanent,
}

/// When a browser sends a cookie to requests from other sites.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SameSite {
    /// Only when a person follows a link.
    #[default]
    Lax,
    /// Never.
    Strict,
}

/// What a session is to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Session {
    /// The endpoint.
    pub address: SocketAddr,
    /// Which backend of the rule it is of: [`backend`] of its port.
    pub backend: u64,
}

/// Returns what tells a backend from others in a [`Session`]. The same in every agent.
pub fn backend(id: &PortId) -> u64 {
    let PortId {
        service,
        port,
        protocol,
    } = id;
    let name = hash::of_bytes(service.name.as_bytes(), u64::from(*port));
    let name = name ^ u64::from(protocol.number());
    hash::of_bytes(service.namespace.as_bytes(), name)
}

/// The sessions of one route rule.
#[derive(Debug)]
pub struct Sessions {
    policy: SessionPolicy,
    name: String,
    /// What tells the rule from all others.
    scope: String,
    key: SessionKey,
}

/// Values of one name that are tried: a client may have some of other rules and paths, but is not to make us try a thousand.
const TRIED_MAX: usize = 8;

/// Values of other rules that a cookie goes on carrying: with the own one 255 bytes. Those that were told last are the first.
const OTHERS_MAX: usize = 3;

/// Stands between values; none of their letters.
const BETWEEN: u8 = b'.';

/// The layout of what is sealed. Another one has another number, and what has another number is no session.
const VERSION: u8 = 1;

/// Version, time, backend, address, port.
const PLAIN: usize = 1 + 4 + 8 + 16 + 2;

/// With the tag.
const SEALED: usize = PLAIN + 16;

/// The same as letters.
const LETTERS: usize = (SEALED * 4).div_ceil(3);

/// What a request says of sessions.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Found {
    /// The session that it belongs to.
    pub session: Option<Session>,
    /// Values of the same name that are not the rule's.
    others: Vec<[u8; LETTERS]>,
}

impl Found {
    /// Keeps a value that may be another rule's.
    fn keep(&mut self, value: &[u8]) {
        let Ok(value) = <[u8; LETTERS]>::try_from(value) else {
            return;
        };
        let is_one = cookie::decode::<SEALED>(&value).is_some();
        if is_one && self.others.len() < OTHERS_MAX && !self.others.contains(&value) {
            self.others.push(value);
        }
    }
}

/// A value of the rule's own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Opened {
    since: u32,
    /// `None`: it is over.
    session: Option<Session>,
}

impl Sessions {
    /// Returns the sessions of the rule that `scope` names among all rules, alike in every agent: for example
    /// `namespace/route/rule`.
    pub fn new(policy: SessionPolicy, scope: String, key: SessionKey) -> Self {
        let own = || format!("session-{:016x}", hash::of_bytes(scope.as_bytes(), 0));
        Self {
            name: policy.name.clone().unwrap_or_else(own),
            policy,
            scope,
            key,
        }
    }

    /// Returns the name of the cookie or header.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns how they are kept.
    pub fn policy(&self) -> &SessionPolicy {
        &self.policy
    }

    /// Returns the session that a request belongs to, and what it has of others. `values` are those of its `cookie` header lines, or of the lines of the header
    /// of this [`Sessions::name`]. `unix_s` is the time of day.
    pub fn find<'a>(&self, values: impl IntoIterator<Item = &'a [u8]>, unix_s: u32) -> Found {
        let mut values = values.into_iter();
        match self.policy.carrier {
            Carrier::Cookie { .. } => {
                let found = values.flat_map(|line| cookie::values(line, self.name.as_bytes()));
                self.newest(found.flat_map(each), unix_s)
            }
            Carrier::Header => {
                let first = values.next().map(<[u8]>::trim_ascii);
                self.newest(first.into_iter().flat_map(each), unix_s)
            }
        }
    }

    /// Returns the newest session among values: a cookie of another path may have an old one of the rule's.
    fn newest<'a>(&self, values: impl Iterator<Item = &'a [u8]>, unix_s: u32) -> Found {
        let mut found = Found::default();
        let mut newest: Option<Opened> = None;
        for value in values.take(TRIED_MAX) {
            match self.open(value, unix_s) {
                None => found.keep(value),
                Some(one) if newest.is_none_or(|it| it.since < one.since) => newest = Some(one),
                Some(_) => {}
            }
        }
        found.session = newest.and_then(|it| it.session);
        found
    }

    /// Returns the name and value of the header to add to the response of a request that had no session, or had another; `found` is
    /// what it had, and `is_tls` says whether the client is connected by TLS.
    ///
    /// # Errors
    ///
    /// Where the library does not seal, which does not happen.
    pub fn header(
        &self,
        session: Session,
        found: &Found,
        unix_s: u32,
        is_tls: bool,
    ) -> Result<(&str, String), Unspecified> {
        let mut value = self.seal(session, unix_s)?;
        for other in &found.others {
            value.push(char::from(BETWEEN));
            value.extend(other.iter().copied().map(char::from));
        }
        let (lifetime, path, same_site) = match &self.policy.carrier {
            Carrier::Header => return Ok((&self.name, value)),
            Carrier::Cookie {
                lifetime,
                path,
                same_site,
            } => (*lifetime, path.as_deref(), *same_site),
        };
        let max_age = match lifetime {
            Lifetime::Session => None,
            Lifetime::Permanent => self.policy.absolute_timeout_s,
        };
        let cookie = cookie::Cookie {
            name: &self.name,
            value: &value,
            path: path.unwrap_or("/"),
            max_age_s: max_age,
            same_site,
            is_secure: is_tls,
        };
        Ok(("set-cookie", cookie.to_string()))
    }

    fn seal(&self, session: Session, unix_s: u32) -> Result<String, Unspecified> {
        let mut bytes = Vec::with_capacity(SEALED);
        bytes.push(VERSION);
        bytes.extend(unix_s.to_be_bytes());
        bytes.extend(session.backend.to_be_bytes());
        let ip = match session.address.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        bytes.extend(ip.octets());
        bytes.extend(session.address.port().to_be_bytes());
        let aad = Aad::from(self.scope.as_bytes());
        self.key
            .0
            .seal_in_place_append_tag(nonce(), aad, &mut bytes)?;
        Ok(cookie::encode(&bytes))
    }

    /// Returns what a value of the rule's own says.
    fn open(&self, value: &[u8], unix_s: u32) -> Option<Opened> {
        let mut bytes: [u8; SEALED] = cookie::decode(value)?;
        let aad = Aad::from(self.scope.as_bytes());
        let plain = self.key.0.open_in_place(nonce(), aad, &mut bytes).ok()?;
        let (version, rest) = plain.split_first_chunk::<1>()?;
        let (since, rest) = rest.split_first_chunk::<4>()?;
        let (backend, rest) = rest.split_first_chunk::<8>()?;
        let (ip, rest) = rest.split_first_chunk::<16>()?;
        let port = rest.first_chunk::<2>()?;
        if *version != [VERSION] {
            return None;
        }
        let since = u32::from_be_bytes(*since);
        // Clocks of nodes differ: a session from a little ahead is as good as one of now.
        let age = unix_s.saturating_sub(since);
        let timeout = self.policy.absolute_timeout_s;
        let ip = Ipv6Addr::from(*ip).to_canonical();
        let session = Session {
            address: SocketAddr::new(ip, u16::from_be_bytes(*port)),
            backend: u64::from_be_bytes(*backend),
        };
        Some(Opened {
            since,
            session: timeout
                .is_none_or(|timeout| age < timeout)
                .then_some(session),
        })
    }
}

/// Returns the values that one of a cookie, or header, is made of.
fn each(values: &[u8]) -> impl Iterator<Item = &[u8]> {
    values.split(|byte| *byte == BETWEEN)
}

/// SIV stays secret and authentic whatever the nonce; the same nonce only shows that two values are the same.
fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; NONCE_LEN])
}

#[cfg(test)]
mod tests;
