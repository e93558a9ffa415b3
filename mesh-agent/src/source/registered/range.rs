//! The ranges that addresses of registered services come from, and which of a range a service gets.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::model::service::ServiceName;
use crate::source::registered::limits;

/// Default range of IPv4: within 240.0.0.0/4, which no network routes and which Linux dials all the same; beside the part that
/// other meshes give out by default. Not 198.18.0.0/15: proxies and VPN clients use that for addresses of their own.
const V4: (Ipv4Addr, u8) = (Ipv4Addr::new(240, 96, 0, 0), 16);

/// Default range of IPv6: a unique local prefix (RFC 4193) whose global ID was drawn at random.
const V6: (Ipv6Addr, u8) = (
    Ipv6Addr::new(0xfdb1, 0x70c6, 0x5e2d, 0xf096, 0, 0, 0, 0),
    112,
);

/// A block of addresses of one family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Range {
    first: IpAddr,
    prefix: u8,
}

impl Range {
    fn new(first: IpAddr, prefix: u8) -> Result<Self, String> {
        // Neither so small that nothing fits between its first and last address, nor so large that it is a typing error.
        let (least, most) = if first.is_ipv4() { (8, 29) } else { (32, 125) };
        if !(least..=most).contains(&prefix) {
            return Err(format!(
                "`{first}/{prefix}`: the prefix has to be from {least} to {most}"
            ));
        }
        let range = Self { first, prefix };
        let network = range.bits() & !range.mask();
        if network != range.bits() {
            let first = range.address(network);
            return Err(format!(
                "`{}/{prefix}` has bits beyond its prefix; did you mean `{first}/{prefix}`?",
                range.first
            ));
        }
        Ok(range)
    }

    fn bits(&self) -> u128 {
        match self.first {
            IpAddr::V4(ip) => u128::from(ip.to_bits()),
            IpAddr::V6(ip) => ip.to_bits(),
        }
    }

    fn width(&self) -> u32 {
        if self.first.is_ipv4() { 32 } else { 128 }
    }

    /// The bits of the host part.
    fn mask(&self) -> u128 {
        let host = self.width() - u32::from(self.prefix);
        1u128.checked_shl(host).map_or(u128::MAX, |bit| bit - 1)
    }

    fn address(&self, bits: u128) -> IpAddr {
        match self.first {
            IpAddr::V4(_) => Ipv4Addr::from_bits(u32::try_from(bits).unwrap_or(u32::MAX)).into(),
            IpAddr::V6(_) => Ipv6Addr::from_bits(bits).into(),
        }
    }

    /// Returns how many addresses are given out: all but the first and the last, which name the network and everybody in it.
    fn usable(&self) -> u32 {
        let inner = (self.mask() - 1).min(u128::from(limits::ADDRESSES));
        u32::try_from(inner).unwrap_or(limits::ADDRESSES)
    }

    /// Returns the address for `name`: where its hash says, or the next one that is not taken; `None` when all are.
    pub(super) fn allot(
        &self,
        name: &ServiceName,
        taken: impl Fn(&IpAddr) -> bool,
    ) -> Option<IpAddr> {
        let usable = self.usable();
        let start = hash(&name.to_string()) % u64::from(usable);
        (0..u64::from(usable))
            .map(|step| (start + step) % u64::from(usable))
            .map(|place| self.address(self.bits() + 1 + u128::from(place)))
            .find(|address| !taken(address))
    }

    /// Returns whether `address` is in it.
    pub(super) fn contains(&self, address: IpAddr) -> bool {
        let bits = match address {
            IpAddr::V4(ip) => u128::from(ip.to_bits()),
            IpAddr::V6(ip) => ip.to_bits(),
        };
        address.is_ipv4() == self.first.is_ipv4() && bits & !self.mask() == self.bits()
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix)
    }
}

impl FromStr for Range {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = text.split_once('/');
        let parsed = parts.and_then(|(ip, prefix)| Some((ip.parse().ok()?, prefix.parse().ok()?)));
        let (first, prefix) = parsed.ok_or_else(|| {
            format!("`{text}` is no range of addresses, such as 240.96.0.0/16 or fd00:1:2:3::/112")
        })?;
        Self::new(first, prefix)
    }
}

/// Where addresses of registered services come from: a range of either family, or of one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ServiceRange {
    v4: Option<Range>,
    v6: Option<Range>,
}

impl Default for ServiceRange {
    fn default() -> Self {
        let range = |(first, prefix)| Range { first, prefix };
        Self {
            v4: Some(range((V4.0.into(), V4.1))),
            v6: Some(range((V6.0.into(), V6.1))),
        }
    }
}

impl ServiceRange {
    /// Returns the range of the family that `address` is of.
    pub(super) fn of_family(&self, address: IpAddr) -> Option<&Range> {
        let range = if address.is_ipv4() {
            &self.v4
        } else {
            &self.v6
        };
        range.as_ref()
    }

    /// Returns whether `address` is in either range.
    pub(super) fn contains(&self, address: IpAddr) -> bool {
        self.of_family(address)
            .is_some_and(|range| range.contains(address))
    }
}

impl FromStr for ServiceRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut found = Self { v4: None, v6: None };
        for word in text.split(',') {
            let range: Range = word.trim().parse()?;
            let place = if range.first.is_ipv4() {
                &mut found.v4
            } else {
                &mut found.v6
            };
            if place.replace(range).is_some() {
                return Err(format!("`{text}` has two ranges of one family"));
            }
        }
        Ok(found)
    }
}

/// FNV-1a: the same in every version of the agent, unlike the standard library's hash.
pub(in crate::source) fn hash(text: &str) -> u64 {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    text.bytes().fold(OFFSET, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(PRIME)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn name(name: &str) -> ServiceName {
        ServiceName {
            namespace: "shop".into(),
            name: name.into(),
        }
    }

    #[test]
    fn a_range_is_given_out_to_its_last_address_and_never_twice() {
        for (text, size) in [("240.0.0.0/28", 14), ("fd00::/124", 14)] {
            let range: Range = text.parse().unwrap();
            let mut taken = HashSet::new();
            for number in 0..size {
                let service = name(&format!("s{number}"));
                let address = range.allot(&service, |a| taken.contains(a)).unwrap();
                assert!(range.contains(address), "{address}");
                assert!(taken.insert(address));
            }
            assert_eq!(range.allot(&name("more"), |a| taken.contains(a)), None);
            assert!(!taken.contains(&range.first));
        }
    }

    #[test]
    fn a_name_always_leads_to_the_same_address() {
        // Fixed for ever: an agent that lost its state gives the same addresses again.
        let range = ServiceRange::default();
        let v4 = range.v4.unwrap().allot(&name("cart"), |_| false).unwrap();
        let v6 = range.v6.unwrap().allot(&name("cart"), |_| false).unwrap();
        assert_eq!(
            (v4.to_string().as_str(), v6.to_string().as_str()),
            ("240.96.42.75", "fdb1:70c6:5e2d:f096::2a4b")
        );
    }

    #[test]
    fn what_is_no_range_is_refused() {
        for (text, says) in [
            ("240.96.0.0", "is no range"),
            ("240.96.0.0/31", "has to be from 8 to 29"),
            ("::/0", "has to be from 32 to 125"),
            ("240.96.1.0/16", "did you mean `240.96.0.0/16`?"),
            ("240.96.0.0/16,10.0.0.0/8", "two ranges of one family"),
        ] {
            let error = text.parse::<ServiceRange>().unwrap_err();
            assert!(error.contains(says), "{error}");
        }
        let one: ServiceRange = "10.1.0.0/16".parse().unwrap();
        assert!(one.of_family("::1".parse().unwrap()).is_none());
    }

    proptest! {
        #[test]
        fn what_is_given_out_is_in_the_range(prefix in 8u8..=29, service in "[a-z]{1,20}") {
            let range = Range::new(Ipv4Addr::new(240, 0, 0, 0).into(), prefix).unwrap();
            let address = range.allot(&name(&service), |_| false).unwrap();
            prop_assert!(range.contains(address));
        }
    }
}
