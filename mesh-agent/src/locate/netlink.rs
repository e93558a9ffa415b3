//! The addresses of a network namespace, by rtnetlink (`RTM_GETADDR`, rtnetlink(7)).
#![forbid(unsafe_code)]

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with,
};

const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_DUMP: u16 = 0x300;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// Sizes of `nlmsghdr`, `ifaddrmsg` and `rtattr`.
const HEADER: usize = 16;
const IFADDR: usize = 8;
const ATTRIBUTE: usize = 4;

/// What the kernel puts into one reply at most (`NLMSG_GOODSIZE` and the 32 KiB that a dump may take).
const BUFFER_BYTES: usize = 64 * 1024;
/// The kernel answers in microseconds; this only keeps a bug from hanging the agent.
const TIMEOUT: Duration = Duration::from_secs(1);
/// More addresses than a workload's namespace can sensibly have; the rest is not looked at.
const ADDRESSES: usize = 65_536;

/// Returns every address of the network namespace that the calling thread is in.
///
/// # Errors
///
/// Those of the socket; and `EINVAL` for an answer that is not understood.
pub(super) fn addresses() -> io::Result<Vec<IpAddr>> {
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        // NETLINK_ROUTE is protocol 0.
        None,
    )?;
    set_socket_timeout(&socket, Timeout::Recv, Some(TIMEOUT))?;
    send(&socket, &request(), SendFlags::empty())?;
    let mut found = Vec::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let (bytes, _) = recv(&socket, &mut buffer[..], RecvFlags::empty())?;
        let done = parse(&buffer[..bytes], &mut found)?;
        if done || found.len() > ADDRESSES {
            return Ok(found);
        }
    }
}

fn request() -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + IFADDR);
    bytes.extend(24u32.to_ne_bytes());
    bytes.extend(RTM_GETADDR.to_ne_bytes());
    bytes.extend((NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    // Sequence and port stay 0: one question on one socket. An `ifaddrmsg` of zeros asks for both families.
    bytes.resize(HEADER + IFADDR, 0);
    bytes
}

/// Adds the addresses of one reply to `found` and returns whether it was the last one.
fn parse(mut reply: &[u8], found: &mut Vec<IpAddr>) -> io::Result<bool> {
    while reply.len() >= HEADER {
        let length = u32_at(reply, 0).unwrap_or(0);
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let message = reply
            .get(..length)
            .filter(|message| message.len() >= HEADER);
        let message = message.ok_or(io::ErrorKind::InvalidData)?;
        match u16_at(message, 4) {
            Some(NLMSG_DONE) => return Ok(true),
            Some(NLMSG_ERROR) => {
                let code = u32_at(message, HEADER).unwrap_or(0).cast_signed();
                return Err(io::Error::from_raw_os_error(code.wrapping_neg()));
            }
            Some(RTM_NEWADDR) => found.extend(address(&message[HEADER..])),
            _ => {}
        }
        reply = reply.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// Returns the interface's own address out of an `ifaddrmsg`.
fn address(body: &[u8]) -> Option<IpAddr> {
    let family = *body.first()?;
    let mut attributes = body.get(IFADDR..)?;
    let mut found = None;
    while attributes.len() >= ATTRIBUTE {
        let length = usize::from(u16_at(attributes, 0)?);
        let value = attributes.get(ATTRIBUTE..length)?;
        match u16_at(attributes, 2)? {
            // On a point-to-point interface IFA_ADDRESS is the other end and IFA_LOCAL is ours.
            IFA_LOCAL => return ip(family, value),
            IFA_ADDRESS => found = ip(family, value),
            _ => {}
        }
        attributes = attributes
            .get(length.next_multiple_of(4)..)
            .unwrap_or_default();
    }
    found
}

fn ip(family: u8, value: &[u8]) -> Option<IpAddr> {
    match family {
        AF_INET => Some(IpAddr::from(<[u8; 4]>::try_from(value).ok()?)),
        AF_INET6 => Some(IpAddr::from(<[u8; 16]>::try_from(value).ok()?)),
        _ => None,
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..at.checked_add(2)?)?;
    Some(u16::from_ne_bytes(bytes.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{addresses, parse};

    #[test]
    fn this_namespace_has_loopback() {
        let addresses = addresses().unwrap();
        let loopback = addresses.iter().any(std::net::IpAddr::is_loopback);
        // A namespace in which `lo` is down has none at all.
        assert!(loopback || addresses.is_empty(), "{addresses:?}");
    }

    proptest! {
        #[test]
        fn any_reply_is_survived(reply in prop::collection::vec(any::<u8>(), 0..200), kind in 0u16..30) {
            let mut found = Vec::new();
            let _outcome = parse(&reply, &mut found);
            let mut framed = u32::try_from(reply.len() + 16).unwrap().to_ne_bytes().to_vec();
            framed.extend(kind.to_ne_bytes());
            framed.resize(16, 0);
            framed.extend(reply);
            let _outcome = parse(&framed, &mut found);
        }
    }
}
