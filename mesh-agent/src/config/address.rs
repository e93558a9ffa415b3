//! Addresses that a workload can have.
#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr};

/// Why a text is not the address of a workload.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AddressError {
    /// Not an address at all.
    #[error("`{0}` is not an IP address")]
    NotAnAddress(String),
    /// An address that no workload can be reached at, or that says nothing about which one is meant.
    #[error("`{address}` is {sort} address, which cannot tell one workload from another")]
    NotUnique {
        /// The address.
        address: IpAddr,
        /// Its sort, with its article.
        sort: &'static str,
    },
}

impl AddressError {
    /// Returns what to do about it.
    pub fn help(&self) -> &'static str {
        match self {
            Self::NotAnAddress(text) if text.contains('/') || text.contains('%') => {
                "give the address alone, without a prefix length or zone"
            }
            Self::NotAnAddress(_) => "give an IPv4 or IPv6 address without a prefix length",
            Self::NotUnique { .. } => "give the address that other workloads connect to",
        }
    }
}

/// Returns the address in `text`. A v4-mapped IPv6 address (`::ffff:a.b.c.d`) becomes the IPv4 address that it means.
///
/// # Errors
///
/// When it is no address, or one that every host has or that is no single host's: loopback, unspecified, multicast,
/// broadcast, IPv6 link-local.
pub fn parse(text: &str) -> Result<IpAddr, AddressError> {
    let address: IpAddr = text
        .parse()
        .map_err(|_| AddressError::NotAnAddress(text.to_owned()))?;
    let address = address.to_canonical();
    let sort = match address {
        address if address.is_loopback() => "a loopback",
        address if address.is_unspecified() => "the unspecified",
        address if address.is_multicast() => "a multicast",
        IpAddr::V4(Ipv4Addr::BROADCAST) => "the broadcast",
        IpAddr::V6(v6) if v6.is_unicast_link_local() => "a link-local",
        IpAddr::V4(_) | IpAddr::V6(_) => return Ok(address),
    };
    Err(AddressError::NotUnique { address, sort })
}
