//! Hashes that consistent algorithms go by: `xxHash64`, as Envoy's do. Not the standard library's hash, which another compiler may
//! change: all agents have to agree.

use std::net::{IpAddr, SocketAddr};

const P1: u64 = 0x9E37_79B1_85EB_CA87;
const P2: u64 = 0xC2B2_AE3D_27D4_EB4F;
const P3: u64 = 0x1656_67B1_9E37_79F9;
const P4: u64 = 0x85EB_CA77_C2B2_AE63;
const P5: u64 = 0x27D4_EB2F_1656_67C5;

/// Returns the hash of these bytes.
pub fn of_bytes(bytes: &[u8], seed: u64) -> u64 {
    let (words, rest) = bytes.as_chunks::<32>();
    let mut hash = if words.is_empty() {
        seed.wrapping_add(P5)
    } else {
        stripes(words, seed)
    };
    hash = hash.wrapping_add(bytes.len() as u64);
    let (words, rest) = rest.as_chunks::<8>();
    for word in words {
        hash ^= round(0, u64::from_le_bytes(*word));
        hash = hash.rotate_left(27).wrapping_mul(P1).wrapping_add(P4);
    }
    let (words, rest) = rest.as_chunks::<4>();
    for word in words {
        hash ^= u64::from(u32::from_le_bytes(*word)).wrapping_mul(P1);
        hash = hash.rotate_left(23).wrapping_mul(P2).wrapping_add(P3);
    }
    for byte in rest {
        hash ^= u64::from(*byte).wrapping_mul(P5);
        hash = hash.rotate_left(11).wrapping_mul(P1);
    }
    mix(hash)
}

/// Returns the hash of a client's address, whatever its port.
pub fn of_source(address: IpAddr) -> u64 {
    match address.to_canonical() {
        IpAddr::V4(address) => of_bytes(&address.octets(), 0),
        IpAddr::V6(address) => of_bytes(&address.octets(), 0),
    }
}

/// Returns the hash of a header's values, or of a cookie's as `session::cookie::values` finds them; `None` where there are none.
/// The order of several does not matter.
pub fn of_values<'a>(values: impl IntoIterator<Item = &'a [u8]>) -> Option<u64> {
    let hashes = values.into_iter().map(|value| of_bytes(value, 0));
    hashes.reduce(u64::wrapping_add)
}

/// Returns the hash of an endpoint.
pub(super) fn of_address(address: SocketAddr, seed: u64) -> u64 {
    let mut bytes = [0; 18];
    let (ip, port) = bytes.split_at_mut(16);
    match address.ip() {
        IpAddr::V4(address) => ip.copy_from_slice(&address.to_ipv6_mapped().octets()),
        IpAddr::V6(address) => ip.copy_from_slice(&address.octets()),
    }
    port.copy_from_slice(&address.port().to_be_bytes());
    of_bytes(&bytes, seed)
}

/// Makes every bit of the hash move every bit of the result.
pub(super) fn mix(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 33)).wrapping_mul(P2);
    hash = (hash ^ (hash >> 29)).wrapping_mul(P3);
    hash ^ (hash >> 32)
}

fn stripes(stripes: &[[u8; 32]], seed: u64) -> u64 {
    let mut lanes = [
        seed.wrapping_add(P1).wrapping_add(P2),
        seed.wrapping_add(P2),
        seed,
        seed.wrapping_sub(P1),
    ];
    for stripe in stripes {
        let (words, _) = stripe.as_chunks::<8>();
        for (lane, word) in lanes.iter_mut().zip(words) {
            *lane = round(*lane, u64::from_le_bytes(*word));
        }
    }
    let [a, b, c, d] = lanes;
    let hash = a
        .rotate_left(1)
        .wrapping_add(b.rotate_left(7))
        .wrapping_add(c.rotate_left(12))
        .wrapping_add(d.rotate_left(18));
    lanes.into_iter().fold(hash, |hash, lane| {
        (hash ^ round(0, lane)).wrapping_mul(P1).wrapping_add(P4)
    })
}

fn round(lane: u64, word: u64) -> u64 {
    lane.wrapping_add(word.wrapping_mul(P2))
        .rotate_left(31)
        .wrapping_mul(P1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_reference() {
        assert_eq!(of_bytes(b"", 0), 0xEF46_DB37_51D8_E999);
        assert_eq!(of_bytes(b"a", 0), 0xD24E_C4F1_A98C_6E5B);
        assert_eq!(of_bytes(b"abc", 0), 0x44BC_2CF5_AD77_0999);
        let long = b"Nobody inspects the spammish repetition";
        assert_eq!(of_bytes(long, 0), 0xFBCE_A83C_8A37_8BF1);
    }

    #[test]
    fn a_client_has_one_hash_in_either_notation() {
        let v4: IpAddr = "10.0.0.1".parse().unwrap();
        let mapped: IpAddr = "::ffff:10.0.0.1".parse().unwrap();
        assert_eq!(of_source(v4), of_source(mapped));
        assert_ne!(of_source(v4), of_source("10.0.0.2".parse().unwrap()));
    }

    #[test]
    fn values_hash_in_any_order_and_none_has_none() {
        let values = |values: &[&'static str]| of_values(values.iter().map(|it| it.as_bytes()));
        assert_eq!(values(&[]), None);
        assert_eq!(values(&["a", "b"]), values(&["b", "a"]));
        assert_ne!(values(&["a"]), values(&["b"]));
    }
}
