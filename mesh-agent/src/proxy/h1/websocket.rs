//! The handshake's key, where the other end speaks HTTP/2 and so has none (RFC 6455, section 4.2.2; RFC 8441, section 5).

use aws_lc_rs::digest::{self, SHA1_FOR_LEGACY_USE_ONLY};

/// What the protocol appends to a key.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Returns `Sec-WebSocket-Accept` for a key.
pub(in crate::proxy) fn accept(key: &[u8]) -> String {
    let hash = digest::digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key, GUID].concat());
    base64(hash.as_ref())
}

/// Returns a new key. It is no secret: it only shows that the answer is to this request.
pub(super) fn key() -> String {
    let mut bytes = [0; 16];
    // Without random numbers it is all zeros, and as good: caches do not see these connections.
    aws_lc_rs::rand::fill(&mut bytes).unwrap_or(());
    base64(&bytes)
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let padded = [
            group[0],
            group.get(1).copied().unwrap_or(0),
            group.get(2).copied().unwrap_or(0),
        ];
        let bits = padded
            .iter()
            .fold(0, |bits, byte| bits << 8 | usize::from(*byte));
        for at in 0..4 {
            if at <= group.len() {
                text.push(char::from(DIGITS[bits >> (18 - 6 * at) & 63]));
            } else {
                text.push('=');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_is_the_standards() {
        // RFC 6455, section 1.3.
        let accepted = accept(b"dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(accepted, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(
            (base64(b"a"), base64(b"ab")),
            ("YQ==".to_owned(), "YWI=".to_owned())
        );
        assert!(key() != key() && key().len() == 24);
    }
}
