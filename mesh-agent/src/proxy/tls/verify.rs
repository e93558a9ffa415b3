//! Who an upstream has to be: a chain to one of the policy's authorities, for a name or one of its alternatives.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme,
};
use webpki::EndEntityCert;

/// What a `BackendTLSPolicy` says of who is trusted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Trust {
    /// Certificates of the authorities, in PEM: what `caCertificateRefs` lead to, one after the other.
    pub authorities: String,
    /// The name that is asked for (SNI), and, without alternatives, the one that is verified.
    pub hostname: String,
    /// Who the upstream may be instead: with any of these, they alone are verified.
    pub alternatives: Vec<Alternative>,
}

/// A subject that authenticates an upstream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Alternative {
    /// By a DNS name, as in the certificate if it begins with `*.`.
    Hostname(String),
    /// By a URI, of SPIFFE for example; compared as it is written.
    Uri(String),
}

/// Verifies upstreams by one policy.
#[derive(Debug)]
pub(super) struct Verifier {
    roots: RootCertStore,
    subjects: Vec<Subject>,
    provider: Arc<CryptoProvider>,
}

/// An alternative, parsed.
#[derive(Debug)]
pub(super) enum Subject {
    Name(ServerName<'static>),
    Wildcard(String),
    Uri(String),
}

/// The certificate is good, and somebody else's.
#[derive(Debug, thiserror::Error)]
#[error("the certificate names none of the policy's subjectAltNames")]
struct NoAlternative;

impl Verifier {
    pub(super) fn new(
        roots: RootCertStore,
        subjects: Vec<Subject>,
        provider: Arc<CryptoProvider>,
    ) -> Self {
        Self {
            roots,
            subjects,
            provider,
        }
    }

    fn is_named(&self, subject: &Subject, end_entity: &CertificateDer<'_>) -> bool {
        let certificate = match subject {
            Subject::Name(name) => {
                let parsed = ParsedCertificate::try_from(end_entity);
                return parsed.is_ok_and(|it| verify_server_name(&it, name).is_ok());
            }
            Subject::Wildcard(_) | Subject::Uri(_) => EndEntityCert::try_from(end_entity),
        };
        let Ok(certificate) = certificate else {
            return false;
        };
        match subject {
            Subject::Name(_) => false,
            Subject::Wildcard(name) => certificate
                .valid_dns_names()
                .any(|it| it.eq_ignore_ascii_case(name)),
            Subject::Uri(uri) => certificate.valid_uri_names().any(|it| it == uri),
        }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.roots,
            intermediates,
            now,
            self.provider.signature_verification_algorithms.all,
        )?;
        if self.subjects.is_empty() {
            verify_server_name(&parsed, server_name)?;
        } else if !self.subjects.iter().any(|it| self.is_named(it, end_entity)) {
            let why = OtherError(Arc::new(NoAlternative));
            return Err(CertificateError::Other(why).into());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
