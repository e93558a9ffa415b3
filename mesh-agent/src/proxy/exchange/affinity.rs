//! The session that a request belongs to, and what a response says of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::l7::message::{Fields, RequestHead, Scheme};
use crate::l7::route::CompiledRule;
use crate::l7::session::{
    Carrier, Found, Lifetime, SameSite, Session, SessionKey, SessionPolicy, Sessions, backend,
};
use crate::model::balanced::PortId;
use crate::model::route::{SessionBy, SessionPersistence};

/// The sessions that the last request on a connection was for: they are made for the first one alone.
#[derive(Debug, Default)]
pub(super) struct Kept(Option<Last>);

#[derive(Debug)]
struct Last {
    rule: Option<Arc<CompiledRule>>,
    policy: SessionPersistence,
    sessions: Arc<Sessions>,
}

/// How one request is bound.
#[derive(Debug)]
pub(super) struct Affinity {
    sessions: Arc<Sessions>,
    /// What the client has.
    found: Found,
    is_tls: bool,
}

impl Kept {
    /// Returns how a request is bound by sessions of this kind: those of its rule, or of the port that was dialled where there is
    /// none. `None`: it is not, since it has neither.
    pub(super) fn affinity(
        &mut self,
        key: &SessionKey,
        rule: Option<&Arc<CompiledRule>>,
        policy: &SessionPersistence,
        port: Option<&PortId>,
        head: &RequestHead,
    ) -> Option<Affinity> {
        let is_of = |last: &&Last| match (&last.rule, rule) {
            (Some(last), Some(rule)) => Arc::ptr_eq(last, rule),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        let known = self.0.as_ref().filter(is_of);
        let sessions = match known.filter(|last| last.policy == *policy) {
            Some(last) => Arc::clone(&last.sessions),
            None => {
                let scope = match (rule, port) {
                    (Some(rule), _) => rule.scope(),
                    (None, port) => port.map(|it| format!("{}:{}", it.service, it.port))?,
                };
                let path = rule.and_then(|rule| rule.cookie_path.as_deref());
                let sessions = Arc::new(Sessions::new(sealed(policy, path), scope, key.clone()));
                self.0 = Some(Last {
                    rule: rule.cloned(),
                    policy: policy.clone(),
                    sessions: Arc::clone(&sessions),
                });
                sessions
            }
        };
        let name = match sessions.policy().carrier {
            Carrier::Cookie { .. } => "cookie",
            Carrier::Header => sessions.name(),
        };
        let found = sessions.find(head.fields.get_all(name), now());
        Some(Affinity {
            found,
            is_tls: head.scheme == Scheme::Https,
            sessions,
        })
    }
}

impl Affinity {
    /// Returns the session that the client has.
    pub(super) fn session(&self) -> Option<Session> {
        self.found.session
    }

    /// Returns whether the client's session is to this backend.
    pub(super) fn is_to(&self, id: &PortId) -> bool {
        self.found
            .session
            .is_some_and(|it| it.backend == backend(id))
    }

    /// Tells the client where it was, if it did not know.
    pub(super) fn tell(&self, fields: &mut Fields, id: &PortId, address: SocketAddr) {
        let session = Session {
            address,
            backend: backend(id),
        };
        if self.found.session == Some(session) {
            return;
        }
        if let Ok((name, value)) = self
            .sessions
            .header(session, &self.found, now(), self.is_tls)
        {
            fields.append(name, value.as_bytes());
        }
    }
}

fn sealed(policy: &SessionPersistence, path: Option<&str>) -> SessionPolicy {
    let carrier = match policy.by {
        SessionBy::Header => Carrier::Header,
        SessionBy::Cookie { permanent } => Carrier::Cookie {
            lifetime: match permanent {
                true => Lifetime::Permanent,
                false => Lifetime::Session,
            },
            path: path.map(str::to_owned),
            same_site: SameSite::Lax,
        },
    };
    let timeout = policy.timeout.map(|it| it.as_secs());
    SessionPolicy {
        name: policy.name.clone(),
        carrier,
        absolute_timeout_s: timeout.map(|it| u32::try_from(it).unwrap_or(u32::MAX)),
    }
}

fn now() -> u32 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let seconds = since.map_or(0, |it| it.as_secs());
    u32::try_from(seconds).unwrap_or(u32::MAX)
}
