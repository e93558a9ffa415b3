//! A client against real servers: good ones, and each kind of bad one.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, Issuer, KeyPair, SanType,
    date_time_ymd,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{HandshakeKind, NamedGroup, ServerConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::l7::message::{RequestHead, ResponseHead, Scheme, Target};
use crate::proxy::exchange::{BodySize, Outgoing as _, RequestSink as _, ResponseSource as _};
use crate::proxy::pool::Wrap as _;

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::default();
    let key = KeyPair::generate().unwrap();
    // Two of them have different names.
    let name = format!("authority {:x?}", &key.public_key_raw()[..8]);
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, key).unwrap()
}

/// What a server presents.
struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

fn identity(authority: &Authority, change: impl FnOnce(&mut CertificateParams)) -> Identity {
    let issuer: &Issuer<'_, KeyPair> = authority;
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["shop.example".to_owned()]).unwrap();
    change(&mut params);
    let certificate = params.signed_by(&key, issuer).unwrap();
    Identity {
        chain: vec![certificate.der().clone()],
        key: PrivateKeyDer::Pkcs8(key.serialize_der().into()),
    }
}

/// One authority that is none does not keep others from being trusted.
#[test]
fn what_is_no_authority_is_trusted_by_nobody() {
    let ca = authority();
    let none = "-----BEGIN CERTIFICATE-----\nMAMCAQE=\n-----END CERTIFICATE-----\n";
    for (authorities, good) in [
        (format!("{none}{}", ca.pem()), true),
        (format!("{}\n{none}", ca.pem()), true),
        (none.to_owned(), false),
    ] {
        let trust = Trust {
            authorities,
            ..trust(&ca)
        };
        let made = Client::new(&Provider::default(), &trust, Alpn::None);
        assert_eq!(made.is_ok(), good, "{made:?}");
    }
}

/// A server that gives back what comes.
fn acceptor(identity: Identity, protocols: &[&[u8]]) -> TlsAcceptor {
    let mut config = ServerConfig::builder_with_provider(Provider::default().0)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(identity.chain, identity.key)
        .unwrap();
    config.alpn_protocols = protocols.iter().map(|it| it.to_vec()).collect();
    TlsAcceptor::from(Arc::new(config))
}

fn serving(acceptor: &TlsAcceptor) -> DuplexStream {
    let (near, far) = duplex(16 << 10);
    let accepting = acceptor.accept(far);
    tokio::spawn(async move {
        if let Ok(stream) = accepting.await {
            let (mut read, mut write) = tokio::io::split(stream);
            tokio::io::copy(&mut read, &mut write).await.unwrap_or(0);
            write.shutdown().await.unwrap_or(());
        }
    });
    near
}

fn trust(authority: &Authority) -> Trust {
    Trust {
        authorities: authority.pem(),
        hostname: "shop.example".to_owned(),
        alternatives: Vec::new(),
    }
}

fn client(trust: &Trust, alpn: Alpn) -> Client {
    Client::new(&Provider::default(), trust, alpn).unwrap()
}

/// Returns why no connection with this trust to this server comes to be.
async fn refusal(trust: &Trust, identity: Identity) -> String {
    let server = acceptor(identity, &[]);
    let connected = client(trust, Alpn::None).connect(serving(&server)).await;
    let Err(why) = connected else {
        panic!("connected to {trust:?}");
    };
    assert!(matches!(why, TlsError::Certificate(_)), "{why:?}");
    why.to_string()
}

async fn accepted(trust: &Trust, identity: Identity) -> bool {
    let server = acceptor(identity, &[]);
    let connected = client(trust, Alpn::None).connect(serving(&server)).await;
    connected.is_ok()
}

#[tokio::test]
async fn a_good_server_is_spoken_to() {
    let ca = authority();
    let server = acceptor(identity(&ca, |_| {}), &[b"h2", b"http/1.1"]);
    for (alpn, protocol) in [(Alpn::H2, &b"h2"[..]), (Alpn::Http1, b"http/1.1")] {
        let mut stream = client(&trust(&ca), alpn)
            .connect(serving(&server))
            .await
            .unwrap();
        let connection = stream.get_ref().1;
        assert_eq!(connection.alpn_protocol(), Some(protocol));
        let group = connection.negotiated_key_exchange_group().unwrap().name();
        assert_eq!(group, NamedGroup::X25519MLKEM768);
        stream.write_all(b"hello").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"hello");
    }
}

#[tokio::test]
async fn bad_servers_are_told_by_what_is_wrong() {
    let ca = authority();
    let trust = trust(&ca);
    let wrong = identity(&ca, |it| {
        it.subject_alt_names = vec![SanType::DnsName("other.example".try_into().unwrap())];
    });
    let why = refusal(&trust, wrong).await;
    assert!(
        why.contains("not valid for name") && why.contains("shop.example"),
        "{why}"
    );
    let expired = identity(&ca, |it| it.not_after = date_time_ymd(2020, 1, 1));
    let why = refusal(&trust, expired).await;
    assert!(why.contains("expired"), "{why}");
    let early = identity(&ca, |it| it.not_before = date_time_ymd(2200, 1, 1));
    let why = refusal(&trust, early).await;
    assert!(why.contains("not valid yet"), "{why}");
    let stranger = identity(&authority(), |_| {});
    let why = refusal(&trust, stranger).await;
    assert!(why.contains("none of the policy's authorities"), "{why}");
}

#[tokio::test]
async fn with_alternatives_they_alone_count() {
    let ca = authority();
    let spiffe = "spiffe://mesh.local/ns/shop/sa/cart";
    let uri = || {
        identity(&ca, |it| {
            it.subject_alt_names = vec![SanType::URI(spiffe.try_into().unwrap())];
        })
    };
    let by_name = || identity(&ca, |_| {});
    let wild = || {
        identity(&ca, |it| {
            it.subject_alt_names = vec![SanType::DnsName("*.shop.example".try_into().unwrap())];
        })
    };
    let with = |alternatives: &[Alternative]| Trust {
        alternatives: alternatives.to_vec(),
        ..trust(&ca)
    };
    let as_uri = |uri: &str| Alternative::Uri(uri.to_owned());
    let as_name = |name: &str| Alternative::Hostname(name.to_owned());

    assert!(accepted(&with(&[as_uri(spiffe)]), uri()).await);
    assert!(accepted(&with(&[as_name("x.example"), as_uri(spiffe)]), uri()).await);
    assert!(accepted(&with(&[as_name("shop.example")]), by_name()).await);
    assert!(accepted(&with(&[as_name("*.shop.example")]), wild()).await);
    assert!(accepted(&with(&[as_name("cart.shop.example")]), wild()).await);
    // The host's own name no longer counts.
    let why = refusal(&with(&[as_uri(spiffe)]), by_name()).await;
    assert!(why.contains("subjectAltNames"), "{why}");
    for (alternative, server) in [
        (as_uri("spiffe://mesh.local/ns/shop/sa/cart2"), uri()),
        (as_uri("spiffe://mesh.local/ns/shop/sa/car"), uri()),
        (as_name("other.example"), by_name()),
        (as_name("*.shop.example"), by_name()),
        (as_name("*.example"), wild()),
    ] {
        refusal(&with(&[alternative]), server).await;
    }
    // An alternative does not make up for a chain that leads elsewhere.
    let stranger = identity(&authority(), |it| {
        it.subject_alt_names = vec![SanType::URI(spiffe.try_into().unwrap())];
    });
    refusal(&with(&[as_uri(spiffe)]), stranger).await;
}

#[tokio::test]
async fn the_protocol_above_is_agreed_on() {
    let ca = authority();
    let silent = acceptor(identity(&ca, |_| {}), &[]);
    let refused = client(&trust(&ca), Alpn::H2)
        .connect(serving(&silent))
        .await;
    assert_eq!(refused.err(), Some(TlsError::Protocol(Alpn::H2)));
    let old = client(&trust(&ca), Alpn::Http1)
        .connect(serving(&silent))
        .await;
    assert!(old.is_ok());
    let other = acceptor(identity(&ca, |_| {}), &[b"http/1.1"]);
    let refused = client(&trust(&ca), Alpn::H2).connect(serving(&other)).await;
    assert!(matches!(refused.err(), Some(TlsError::Handshake(_))));
}

#[tokio::test]
async fn sessions_are_resumed() {
    let ca = authority();
    let server = acceptor(identity(&ca, |_| {}), &[]);
    let client = client(&trust(&ca), Alpn::None);
    let mut kinds = Vec::new();
    for _ in 0..2 {
        let mut stream = client.connect(serving(&server)).await.unwrap();
        kinds.push(stream.get_ref().1.handshake_kind().unwrap());
        // The ticket comes with the first bytes.
        stream.write_all(b"x").await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'x');
    }
    assert_eq!(kinds, [HandshakeKind::Full, HandshakeKind::Resumed]);
}

#[tokio::test]
async fn what_speaks_no_tls_is_an_error_of_its_own() {
    let ca = authority();
    let tls = client(&trust(&ca), Alpn::None).within(Duration::from_millis(50));
    let (near, mut far) = duplex(16 << 10);
    far.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        .await
        .unwrap();
    assert!(matches!(
        tls.connect(near).await.err(),
        Some(TlsError::Handshake(_))
    ));
    let (near, far) = duplex(16 << 10);
    drop(far);
    assert!(matches!(
        tls.connect(near).await.err(),
        Some(TlsError::Broken(_))
    ));
    let (near, _silent) = duplex(16 << 10);
    assert_eq!(tls.connect(near).await.err(), Some(TlsError::Timeout));
}

#[tokio::test]
async fn requests_go_through_it() {
    let ca = authority();
    let server = acceptor(identity(&ca, |_| {}), &[b"h2"]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap());
    let (near, far) = tokio::join!(near, listener.accept());
    let accepting = server.accept(far.unwrap().0);
    tokio::spawn(async move {
        let mut server = h2::server::handshake(accepting.await.unwrap())
            .await
            .unwrap();
        while let Some(Ok((_, mut respond))) = server.accept().await {
            let response = http::Response::builder().status(204).body(()).unwrap();
            respond.send_response(response, true).unwrap();
        }
    });
    let around = Around::new(NonZeroU64::MIN, client(&trust(&ca), Alpn::H2));
    assert_eq!(around.id(), 1);
    let stream = around.wrap(near.unwrap()).await.unwrap();
    let limits = crate::proxy::h2::ClientLimits::default();
    let connection = crate::proxy::h2::connect(stream, &limits).await.unwrap();
    let mut stream = connection.stream().unwrap();
    let (mut request, mut response) = stream.halves();
    let asked = RequestHead {
        scheme: Scheme::Https,
        authority: "shop.example".to_owned(),
        target: Target::new("/".to_owned()),
        ..RequestHead::default()
    };
    let mut answer = ResponseHead::default();
    let sent = request.head(&asked, BodySize::Empty);
    let (sent, answered) = tokio::join!(sent, response.head(&mut answer));
    assert_eq!((sent, answered), (Ok(()), Ok(())));
    assert_eq!(answer.status, 204);
}

#[test]
fn policies_of_no_use_are_told_by_what_is_wrong() {
    let ca = authority();
    let good = trust(&ca);
    let provider = Provider::default();
    let error = |trust: Trust| Client::new(&provider, &trust, Alpn::H2).unwrap_err();
    let no_pem = Trust {
        authorities: "x".to_owned(),
        ..good.clone()
    };
    assert_eq!(error(no_pem), ConfigError::NoAuthority);
    let bad = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let bad = Trust {
        authorities: bad.to_owned(),
        ..good.clone()
    };
    assert!(matches!(error(bad), ConfigError::Authorities(_)));
    for name in ["", "192.0.2.1", "a b", "*.shop"] {
        let trust = Trust {
            hostname: name.to_owned(),
            ..good.clone()
        };
        assert_eq!(error(trust), ConfigError::Hostname(name.to_owned()));
    }
}
