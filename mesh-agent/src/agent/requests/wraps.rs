//! TLS to backends, made from policies once and kept while they stay the same: with it go the sessions that connections resume.

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::sync::Arc;

use crate::model::balanced::PortId;
use crate::model::traffic::{BackendTls, BackendTlsPolicies, Roots, SubjectAltName, TlsName};
use crate::proxy::exchange::{Speaks, Wrapped};
use crate::proxy::pool::Wrap;
use crate::proxy::tls::{Alpn, Alternative, Around, Client, Provider, Trust};

/// Where systems keep the authorities that they trust, by distribution: Debian, Fedora, Alpine.
const SYSTEM_ROOTS: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
];

/// What is around connections to a service port's endpoints, or why there can be none.
type Made = Result<Arc<dyn Wrap>, String>;

/// What was made.
#[derive(Debug, Default)]
pub(super) struct Wraps {
    provider: Provider,
    made: HashMap<(PortId, Alpn), (Arc<BackendTls>, Made)>,
    /// Number of the last one: connections made with one are no good for another.
    last: u64,
}

impl Wraps {
    /// Returns what a policy puts around connections.
    pub(super) fn of(&mut self, id: &PortId, tls: &Arc<BackendTls>, speaks: Speaks) -> Wrapped {
        let (http1, http2) = match speaks {
            Speaks::Http1 => (Alpn::Http1, Alpn::Http1),
            Speaks::Http2 => (Alpn::H2, Alpn::H2),
            Speaks::AsClient => (Alpn::Http1, Alpn::H2),
        };
        Wrapped {
            http1: self.around(id, tls, http1),
            http2: self.around(id, tls, http2),
        }
    }

    fn around(&mut self, id: &PortId, tls: &Arc<BackendTls>, alpn: Alpn) -> Made {
        let key = (id.clone(), alpn);
        if let Some((of, made)) = self.made.get(&key)
            && of == tls
        {
            return made.clone();
        }
        let made = self.make(tls, alpn);
        if let Err(why) = &made {
            tracing::error!(
                policy = tls.from,
                "requests to {}:{} fail: {why}",
                id.service,
                id.port
            );
        }
        self.made.insert(key, (tls.clone(), made.clone()));
        made
    }

    /// Forgets those of ports that have no policy any more.
    pub(super) fn sweep(&mut self, policies: &BackendTlsPolicies) {
        self.made.retain(|(id, _), _| policies.contains_key(id));
    }

    fn make(&mut self, tls: &BackendTls, alpn: Alpn) -> Made {
        let trust = trust(tls.to.as_ref().map_err(Clone::clone)?)?;
        let client = Client::new(&self.provider, &trust, alpn).map_err(|why| why.to_string())?;
        let number = NonZeroU64::MIN.saturating_add(self.last);
        self.last += 1;
        Ok(Arc::new(Around::new(number, client)))
    }
}

fn trust(name: &TlsName) -> Result<Trust, String> {
    let authorities = match &name.roots {
        Roots::Pem(pem) => pem.to_string(),
        Roots::System => SYSTEM_ROOTS
            .iter()
            .find_map(|path| std::fs::read_to_string(path).ok())
            .ok_or("this machine has no certificates of authorities where systems keep them")?,
    };
    let alternative = |name: &SubjectAltName| match name {
        SubjectAltName::Hostname(name) => Alternative::Hostname(name.clone()),
        SubjectAltName::Uri(uri) => Alternative::Uri(uri.clone()),
    };
    Ok(Trust {
        authorities,
        hostname: name.hostname.clone(),
        alternatives: name.names.iter().map(alternative).collect(),
    })
}
