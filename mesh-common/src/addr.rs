//! Addresses and ports as they stand on the wire.

/// An IPv6 address, or an IPv4 address in its v4-mapped form (`::ffff:a.b.c.d`), in network order.
///
/// One representation for both families, so that a v4-mapped socket and a plain IPv4 socket are the same key
/// (RFC 4291, section 2.5.5.2).
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct Addr(pub [u8; 16]);

impl Addr {
    /// The address `::`, which stands for "unknown".
    pub const UNSPECIFIED: Self = Self([0; 16]);

    /// Returns the v4-mapped form of an IPv4 address in network order.
    #[inline(always)]
    pub const fn v4(octets: [u8; 4]) -> Self {
        let [a, b, c, d] = octets;
        Self([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d])
    }

    /// Returns whether this is an IPv4 address in its v4-mapped form.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        matches!(self.0, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, ..])
    }

    /// Returns whether the address never leaves its network namespace: `127.0.0.0/8` or `::1`.
    #[inline(always)]
    pub const fn is_loopback(&self) -> bool {
        (self.is_v4() && self.0[12] == 127)
            || matches!(self.0, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1])
    }
}

/// A TCP or UDP port in network order.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct PortBe(pub u16);

impl PortBe {
    /// Returns the port number `port`, given in host order.
    #[inline(always)]
    pub const fn new(port: u16) -> Self {
        Self(port.to_be())
    }

    /// Returns the port number in host order.
    #[inline(always)]
    pub const fn number(self) -> u16 {
        u16::from_be(self.0)
    }
}

#[cfg(feature = "user")]
mod user {
    use core::fmt;
    use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use super::{Addr, PortBe};

    impl From<IpAddr> for Addr {
        fn from(ip: IpAddr) -> Self {
            match ip {
                IpAddr::V4(v4) => Self::v4(v4.octets()),
                IpAddr::V6(v6) => Self(v6.octets()),
            }
        }
    }

    impl From<Addr> for IpAddr {
        fn from(addr: Addr) -> Self {
            let v6 = Ipv6Addr::from(addr.0);
            if addr.is_v4() {
                let [.., a, b, c, d] = addr.0;
                return Self::V4(Ipv4Addr::new(a, b, c, d));
            }
            Self::V6(v6)
        }
    }

    impl fmt::Display for Addr {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            IpAddr::from(*self).fmt(f)
        }
    }

    impl fmt::Display for PortBe {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            self.number().fmt(f)
        }
    }
}
