//! TLS of the data path, by rustls: to backends, as a `BackendTLSPolicy` says.
//!
//! Everything is built from a [`Provider`] that is handed in; there is no default of the process that could be missing or another
//! one. Who terminates TLS builds his `ServerConfig` from the same provider.

mod client;
#[cfg(test)]
mod tests;
mod verify;

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};

pub use client::{Alpn, Around, Client, ConfigError, HANDSHAKE, TlsError};
pub use verify::{Alternative, Trust};

/// The cryptography that TLS uses: aws-lc-rs, post-quantum key exchange (X25519MLKEM768) first.
#[derive(Clone, Debug)]
pub struct Provider(Arc<CryptoProvider>);

impl Default for Provider {
    fn default() -> Self {
        Self(Arc::new(aws_lc_rs::default_provider()))
    }
}
