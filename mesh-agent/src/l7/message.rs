//! Heads of HTTP messages, in one form for every version of the protocol.

mod fields;

use http::{Method, StatusCode};

pub use fields::{Field, Fields};

/// Version of the protocol that a message came by.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    Http11,
    /// HTTP/2.
    Http2,
}

/// Scheme of the request's target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scheme {
    /// `http`.
    Http,
    /// `https`.
    Https,
}

impl Scheme {
    /// Returns it as in a URL.
    pub fn word(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// Returns the port that a URL of this scheme means without one.
    pub fn port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// Head of a request whose host and framing are valid (RFC 9110, 9112, 9113) and whose hop-by-hop fields are gone.
#[derive(Clone, PartialEq, Debug)]
pub struct RequestHead {
    /// The method, never `CONNECT`: what HTTP/2 asks for by extended CONNECT (RFC 8441) is the `GET` that HTTP/1.1 would send.
    pub method: Method,
    /// The scheme that the client used; plain text inside the mesh is `http`.
    pub scheme: Scheme,
    /// Host and port as the client sent them, in lower case: `:authority`, the target's authority or `Host`, which are the same
    /// by now. The fields hold no `Host`.
    pub authority: String,
    /// The path and query as they are forwarded: begins with `/`, or is `*`.
    pub target: Target,
    /// `:protocol` of extended CONNECT, or the `Upgrade` of HTTP/1.1: `websocket`.
    pub protocol: Option<String>,
    /// Version it came by.
    pub version: Version,
    /// Its fields, without `Host` and without `Content-Length`: how much body there is goes beside the head. `TE` is here only
    /// as `trailers`.
    pub fields: Fields,
}

impl RequestHead {
    /// Returns how many bytes of memory it keeps beside itself.
    pub fn capacity(&self) -> usize {
        self.authority.capacity() + self.target.text.capacity() + self.fields.capacity()
    }

    /// Makes it a plain `GET` of nothing, and keeps the memory.
    pub fn clear(&mut self) {
        self.method = Method::GET;
        self.scheme = Scheme::Http;
        self.authority.clear();
        self.target.set("");
        self.protocol = None;
        self.version = Version::Http11;
        self.fields.clear();
    }
}

impl Default for RequestHead {
    fn default() -> Self {
        Self {
            method: Method::GET,
            scheme: Scheme::Http,
            authority: String::new(),
            target: Target::default(),
            protocol: None,
            version: Version::Http11,
            fields: Fields::default(),
        }
    }
}

/// Path and query of a request.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Target {
    text: String,
    /// Where the `?` is.
    query: Option<usize>,
}

impl Target {
    /// Takes `text` as path and query, split at its first `?`.
    pub fn new(text: String) -> Self {
        let query = text.find('?');
        Self { text, query }
    }

    /// Takes `text` in the place of what was there, and keeps the memory.
    pub fn set(&mut self, text: &str) {
        self.text.clear();
        self.text.push_str(text);
        self.query = text.find('?');
    }

    /// Returns both as they are sent.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns the path.
    pub fn path(&self) -> &str {
        &self.text[..self.query.unwrap_or(self.text.len())]
    }

    /// Returns what follows the `?`.
    pub fn query(&self) -> Option<&str> {
        self.query.map(|at| &self.text[at + 1..])
    }

    /// Puts another path in the place of this one; the query stays.
    pub fn set_path(&mut self, path: &str) {
        let end = self.query.unwrap_or(self.text.len());
        self.text.replace_range(..end, path);
        self.query = self.query.map(|at| at - end + path.len());
    }
}

/// Head of a response.
#[derive(Clone, PartialEq, Debug)]
pub struct ResponseHead {
    /// The status.
    pub status: StatusCode,
    /// Version it came by.
    pub version: Version,
    /// Its fields, hop-by-hop ones gone. `Content-Length` is here only where no body follows although it says how long one would
    /// be: in answers to `HEAD` and in 304.
    pub fields: Fields,
}

impl ResponseHead {
    /// Makes it a 200 without fields, and keeps the memory.
    pub fn clear(&mut self) {
        self.status = StatusCode::OK;
        self.version = Version::Http11;
        self.fields.clear();
    }
}

impl Default for ResponseHead {
    fn default() -> Self {
        Self {
            status: StatusCode::OK,
            version: Version::Http11,
            fields: Fields::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_path_leaves_the_query() {
        let mut target = Target::new("/a/b?c=/d?e".to_owned());
        assert_eq!((target.path(), target.query()), ("/a/b", Some("c=/d?e")));
        target.set_path("/longer/path");
        assert_eq!(target.as_str(), "/longer/path?c=/d?e");
        assert_eq!(
            (target.path(), target.query()),
            ("/longer/path", Some("c=/d?e"))
        );
        target.set_path("/");
        assert_eq!(target.as_str(), "/?c=/d?e");
        let mut bare = Target::new("*".to_owned());
        assert_eq!((bare.path(), bare.query()), ("*", None));
        bare.set_path("/x");
        assert_eq!(bare.as_str(), "/x");
    }
}
