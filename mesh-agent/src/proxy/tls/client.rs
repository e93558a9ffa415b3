//! TLS to an upstream: never anything weaker in its place.

use std::io;
use std::num::NonZeroU64;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{CertificateError, ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::Provider;
use super::verify::{Alternative, Subject, Trust, Verifier};
use crate::proxy::pool::Wrap;
use crate::proxy::stream::Stream;

/// How long a handshake may take.
pub const HANDSHAKE: Duration = Duration::from_secs(10);

/// Sessions that are kept for resumption, of all endpoints of a policy together: they bear one name.
const SESSIONS: usize = 256;

/// What is spoken above TLS.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Alpn {
    /// HTTP/2: an upstream that does not agree to it is not connected to.
    H2,
    /// HTTP/1.1: one that chooses nothing may be old.
    Http1,
    /// Whatever the application speaks; nothing is offered.
    None,
}

impl Alpn {
    fn offers(self) -> &'static [&'static [u8]] {
        match self {
            Self::H2 => &[b"h2"],
            Self::Http1 => &[b"http/1.1"],
            Self::None => &[],
        }
    }

    fn accepts(self, chosen: Option<&[u8]>) -> bool {
        match self {
            Self::H2 => chosen == Some(b"h2"),
            Self::Http1 => chosen.is_none_or(|it| it == b"http/1.1"),
            Self::None => true,
        }
    }
}

/// Why a policy's TLS cannot be spoken.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ConfigError {
    /// The authorities are no certificates in PEM.
    #[error("failed to read the authorities' certificates as PEM: {0}")]
    Authorities(String),
    /// There are none: nobody could be trusted.
    #[error("there is no certificate of an authority")]
    NoAuthority,
    /// The name that is asked for is none.
    #[error("`{0}` is not a name of a host")]
    Hostname(String),
    /// The provider has none of the versions of TLS that we speak.
    #[error("failed to set up TLS: {0}")]
    Setup(String),
}

/// Why a connection has no TLS, and so is not used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TlsError {
    /// The upstream is not who it has to be.
    #[error("failed to verify the upstream's certificate: {0}")]
    Certificate(String),
    /// The two have nothing in common, or the upstream refuses.
    #[error("failed to agree on TLS with the upstream: {0}")]
    Handshake(String),
    /// It speaks TLS, but not the protocol that was asked for.
    #[error("the upstream does not agree to {0:?} above TLS")]
    Protocol(Alpn),
    /// It closed or reset the connection.
    #[error("the upstream broke off the TLS handshake: {0}")]
    Broken(String),
    /// It took too long.
    #[error("the upstream did not complete the TLS handshake in time")]
    Timeout,
}

/// TLS to the upstreams of one policy. Cheap to copy; copies share the sessions that are resumed.
#[derive(Clone, Debug)]
pub struct Client {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    alpn: Alpn,
    handshake: Duration,
}

impl Client {
    /// Prepares TLS for a policy.
    ///
    /// # Errors
    /// Says what of the policy is of no use.
    pub fn new(provider: &Provider, trust: &Trust, alpn: Alpn) -> Result<Self, ConfigError> {
        let name = host(&trust.hostname)?;
        let subjects = trust.alternatives.iter().map(subject);
        let subjects = subjects.collect::<Result<_, _>>()?;
        let roots = roots(&trust.authorities)?;
        let verifier = Verifier::new(roots, subjects, Arc::clone(&provider.0));
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider.0))
            .with_safe_default_protocol_versions()
            .map_err(|why| ConfigError::Setup(why.to_string()))?
            // Stricter than the usual one, not laxer: it verifies all that webpki does, and alternative names.
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        config.alpn_protocols = alpn.offers().iter().map(|it| it.to_vec()).collect();
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        Ok(Self {
            config: Arc::new(config),
            name,
            alpn,
            handshake: HANDSHAKE,
        })
    }

    /// Sets how long a handshake may take.
    #[must_use]
    pub fn within(mut self, handshake: Duration) -> Self {
        self.handshake = handshake;
        self
    }

    /// Speaks TLS on a connection, which is closed if that fails.
    ///
    /// # Errors
    /// Says why there is none.
    pub async fn connect<I>(&self, io: I) -> Result<TlsStream<I>, TlsError>
    where
        I: AsyncRead + AsyncWrite + Unpin,
    {
        let connector = TlsConnector::from(Arc::clone(&self.config));
        let connecting = connector.connect(self.name.clone(), io);
        let connected = timeout(self.handshake, connecting).await;
        let stream = connected.map_err(|_| TlsError::Timeout)?.map_err(failure)?;
        let chosen = stream.get_ref().1.alpn_protocol();
        if !self.alpn.accepts(chosen) {
            return Err(TlsError::Protocol(self.alpn));
        }
        Ok(stream)
    }
}

/// TLS around a pool's connections.
#[derive(Debug)]
pub struct Around {
    id: NonZeroU64,
    client: Client,
}

impl Around {
    /// Puts TLS around connections. `id` is another for each client: a connection whose other end was verified by one policy is no
    /// good for another.
    pub fn new(id: NonZeroU64, client: Client) -> Self {
        Self { id, client }
    }
}

impl Wrap for Around {
    fn id(&self) -> u64 {
        self.id.get()
    }

    fn wrap(
        &self,
        stream: TcpStream,
    ) -> Pin<Box<dyn Future<Output = io::Result<Stream>> + Send + '_>> {
        Box::pin(async move {
            let stream = self.client.connect(stream).await;
            stream.map(Stream::wrapped).map_err(io::Error::other)
        })
    }
}

fn host(name: &str) -> Result<ServerName<'static>, ConfigError> {
    match ServerName::try_from(name.to_owned()) {
        Ok(ServerName::DnsName(name)) => Ok(ServerName::DnsName(name)),
        // SNI has names only.
        Ok(_) | Err(_) => Err(ConfigError::Hostname(name.to_owned())),
    }
}

fn subject(alternative: &Alternative) -> Result<Subject, ConfigError> {
    match alternative {
        Alternative::Uri(uri) => Ok(Subject::Uri(uri.clone())),
        Alternative::Hostname(name) => match name.strip_prefix("*.") {
            Some(suffix) => host(suffix).map(|_| Subject::Wildcard(name.clone())),
            None => host(name).map(Subject::Name),
        },
    }
}

fn roots(pem: &str) -> Result<RootCertStore, ConfigError> {
    let mut roots = RootCertStore::empty();
    let mut bad = None;
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|why| ConfigError::Authorities(why.to_string()))?;
        // One that is of no use is trusted by nobody; the others are good all the same.
        if let Err(why) = roots.add(certificate) {
            bad = Some(ConfigError::Authorities(why.to_string()));
        }
    }
    if roots.is_empty() {
        return Err(bad.unwrap_or(ConfigError::NoAuthority));
    }
    Ok(roots)
}

fn failure(why: io::Error) -> TlsError {
    let tls = why
        .get_ref()
        .and_then(|it| it.downcast_ref::<rustls::Error>());
    let Some(tls) = tls else {
        return TlsError::Broken(why.to_string());
    };
    if let rustls::Error::InvalidCertificate(why) = tls {
        return TlsError::Certificate(certificate(why));
    }
    TlsError::Handshake(tls.to_string())
}

/// Says what is wrong with a certificate.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the other reasons speak for themselves"
)]
fn certificate(why: &CertificateError) -> String {
    match why {
        CertificateError::UnknownIssuer => {
            "it leads to none of the policy's authorities".to_owned()
        }
        CertificateError::Other(why) => why.0.to_string(),
        why => why.to_string(),
    }
}
