//! TLS before the test API server: pods reach it as those of a real cluster do, by the certificate of an authority that they are told.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer;

/// A door to a server. Dropping it ends all connections.
#[derive(Debug)]
pub(super) struct Door {
    runtime: Runtime,
    config: Arc<ServerConfig>,
    /// The authority's certificate, in PEM.
    pub(super) authority: String,
}

impl Door {
    /// Makes an authority, and a door by these names.
    pub(super) fn new(names: &[String]) -> Result<Self> {
        let mut authority = CertificateParams::new(Vec::new())?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate()?;
        let pem = authority.self_signed(&key)?.pem();
        let issuer = Issuer::new(authority, key);
        let key = KeyPair::generate()?;
        let own = CertificateParams::new(names)?.signed_by(&key, &issuer)?;
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(
                vec![own.der().clone()],
                PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            )?;
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        Ok(Self {
            runtime,
            config: Arc::new(config),
            authority: pem,
        })
    }

    /// Leads whoever connects to a listener to a server.
    pub(super) fn open(&self, listener: TcpListener, server: SocketAddr) -> Result<()> {
        listener.set_nonblocking(true)?;
        let _inside = self.runtime.enter();
        let listener = tokio::net::TcpListener::from_std(listener).context("no listener")?;
        let acceptor = TlsAcceptor::from(self.config.clone());
        self.runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    // Whoever breaks off is none of the server's errors.
                    lead(&acceptor, stream, server).await.ok();
                });
            }
        });
        Ok(())
    }
}

async fn lead(
    acceptor: &TlsAcceptor,
    stream: TcpStream,
    server: SocketAddr,
) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = acceptor.accept(stream).await?;
    let mut server = TcpStream::connect(server).await?;
    server.set_nodelay(true)?;
    copy_bidirectional(&mut stream, &mut server).await?;
    Ok(())
}
