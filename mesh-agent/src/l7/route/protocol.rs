//! What a service port says that is spoken there.

use crate::model::service::{Port, Protocol};

/// What is spoken at a service port, as `appProtocol` or the port's name says (`http-web`, `grpc`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum AppProtocol {
    /// HTTP/1, perhaps with WebSocket in it; a client that begins with the preface of HTTP/2 is served all the same.
    Http,
    /// HTTP/2 without TLS (`kubernetes.io/h2c`).
    Http2,
    /// gRPC, by HTTP/2.
    Grpc,
    /// TLS, also that of HTTP.
    Tls,
    /// Bytes that nobody looks into.
    Tcp,
    /// Nothing is said: to be detected.
    Detect,
    /// Datagrams.
    Udp,
}

impl AppProtocol {
    /// Returns what is said of a port.
    pub fn of(port: &Port) -> Self {
        if port.protocol == Protocol::Udp {
            return Self::Udp;
        }
        let said = port.app_protocol.as_deref().and_then(Self::of_word);
        let name = port.name.as_deref().unwrap_or_default();
        let by_name = || Self::of_word(name.split('-').next().unwrap_or_default());
        said.or_else(by_name).unwrap_or(Self::Detect)
    }

    /// Returns what a word of `appProtocol` means.
    pub fn of_word(word: &str) -> Option<Self> {
        let word = word.to_ascii_lowercase();
        Some(match word.strip_prefix("kubernetes.io/").unwrap_or(&word) {
            "http" | "http1" | "ws" => Self::Http,
            "h2c" | "http2" => Self::Http2,
            "grpc" => Self::Grpc,
            "https" | "tls" | "wss" => Self::Tls,
            "tcp" | "mongo" | "mysql" | "redis" | "postgres" | "postgresql" => Self::Tcp,
            _ => return None,
        })
    }

    /// Returns it as people write it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Http2 => "h2c",
            Self::Grpc => "grpc",
            Self::Tls => "tls",
            Self::Tcp => "tcp",
            Self::Detect => "detect",
            Self::Udp => "udp",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str, said: Option<&str>) -> AppProtocol {
        AppProtocol::of(&Port {
            name: Some(name.to_owned()),
            number: 80,
            protocol: Protocol::Tcp,
            node_port: None,
            app_protocol: said.map(str::to_owned),
            endpoints: Vec::new(),
        })
    }

    #[test]
    fn app_protocol_comes_before_the_name() {
        assert_eq!(of("grpc-api", Some("http")), AppProtocol::Http);
        assert_eq!(of("grpc-api", None), AppProtocol::Grpc);
        assert_eq!(of("http", None), AppProtocol::Http);
        assert_eq!(of("httpx", None), AppProtocol::Detect);
        assert_eq!(of("web", Some("kubernetes.io/h2c")), AppProtocol::Http2);
        assert_eq!(of("web", Some("kubernetes.io/wss")), AppProtocol::Tls);
        assert_eq!(of("web", Some("example.com/own")), AppProtocol::Detect);
        assert_eq!(of("tcp-db", None), AppProtocol::Tcp);
    }
}
