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

    /// The address `::1`.
    pub const LOOPBACK_V6: Self = Self([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);

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

#[cfg(all(test, feature = "user"))]
mod tests {
    use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_address_comes_back_and_a_mapped_one_as_ipv4(octets in any::<[u8; 4]>(), bytes in any::<[u8; 16]>()) {
            let v4 = Ipv4Addr::from(octets);
            prop_assert_eq!(IpAddr::from(Addr::from(IpAddr::V4(v4))), IpAddr::V4(v4));
            let mapped = IpAddr::V6(v4.to_ipv6_mapped());
            prop_assert_eq!(Addr::from(mapped), Addr::from(IpAddr::V4(v4)));
            let v6 = Ipv6Addr::from(bytes);
            let expected = v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4);
            prop_assert_eq!(IpAddr::from(Addr::from(IpAddr::V6(v6))), expected);
        }

        #[test]
        fn loopback_is_what_the_standard_library_says(octets in any::<[u8; 4]>(), bytes in any::<[u8; 16]>(), own in any::<bool>()) {
            let [_, b, c, d] = octets;
            let v4 = if own { Ipv4Addr::new(127, b, c, d) } else { Ipv4Addr::from(octets) };
            prop_assert_eq!(Addr::from(IpAddr::V4(v4)).is_loopback(), v4.is_loopback());
            let v6 = if own { Ipv6Addr::LOCALHOST } else { Ipv6Addr::from(bytes) };
            let expected = v6.is_loopback() || v6.to_ipv4_mapped().is_some_and(|v4| v4.is_loopback());
            prop_assert_eq!(Addr::from(IpAddr::V6(v6)).is_loopback(), expected);
        }

        #[test]
        fn a_port_comes_back(port in any::<u16>()) {
            prop_assert_eq!(PortBe::new(port).number(), port);
            prop_assert_eq!(PortBe::new(port).0.to_ne_bytes(), port.to_be_bytes());
        }
    }
}
