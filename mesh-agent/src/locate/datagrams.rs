//! Connected UDP sockets inside a workload's network namespace: finds those that must not be, and closes them (sock_diag(7)).
//!
//! Nothing tells of them but the kernel's own table: they make no flow record.
#![forbid(unsafe_code)]

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::net::{netlink, recv, send, socket_with};

use crate::locate::inside::{Place, inside};
use crate::locate::reset::{
    AF_INET, AF_INET6, ConnectedSocket, Connection, HEADER, NLM_F_REQUEST, NLMSG_ERROR, REQUEST,
    SOCK_DIAG_BY_FAMILY, close_here,
};
use crate::model::service::Protocol;

const NLMSG_DONE: u16 = 3;
const NLM_F_DUMP: u16 = 0x300;
/// `1 << TCP_ESTABLISHED`: a UDP socket is in this state while it is connected.
const CONNECTED: u32 = 1 << 1;
/// Bytes of an `inet_diag_msg` up to the cookie's end.
const MESSAGE: usize = 52;
/// What the kernel puts into one reply at most.
const BUFFER_BYTES: usize = 64 * 1024;
/// The kernel answers in microseconds; this only keeps a bug from hanging the agent.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Sockets closed at one visit: more than a process may have by default. Whoever calls comes again.
const CLOSED: usize = 4096;

/// Closes every connected UDP socket for which `is_denied`, and returns what they were connected to. Their owners get
/// `ECONNABORTED` once, and have a socket that is not connected. Blocking.
///
/// # Errors
///
/// Those of entering the namespace; `EOPNOTSUPP` where the kernel lacks `CONFIG_INET_DIAG_DESTROY`.
pub fn close_connected(
    place: &Place,
    is_denied: &(dyn Fn(&Connection) -> bool + Sync),
) -> io::Result<Vec<Connection>> {
    inside(place, || {
        let mut found = Vec::new();
        for family in [AF_INET, AF_INET6] {
            dump(family, &mut |socket| {
                if is_denied(&socket.connection) && found.len() < CLOSED {
                    found.push(socket);
                }
            })?;
        }
        found.iter().try_for_each(close_here)?;
        Ok(found.iter().map(|socket| socket.connection).collect())
    })
}

/// Shows every connected UDP socket of a family in the network namespace that the calling thread is in.
fn dump(family: u8, show: &mut dyn FnMut(ConnectedSocket)) -> io::Result<()> {
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(netlink::SOCK_DIAG),
    )?;
    set_socket_timeout(&socket, Timeout::Recv, Some(TIMEOUT))?;
    send(&socket, &request(family), SendFlags::empty())?;
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let (bytes, _) = recv(&socket, &mut buffer[..], RecvFlags::empty())?;
        if parse(&buffer[..bytes], show)? {
            return Ok(());
        }
    }
}

/// An `nlmsghdr` and an `inet_diag_req_v2` that asks for all connected UDP sockets.
fn request(family: u8) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + REQUEST);
    bytes.extend(72u32.to_ne_bytes());
    bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes.extend((NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend([family, Protocol::Udp.number(), 0, 0]);
    bytes.extend(CONNECTED.to_ne_bytes());
    // Any addresses.
    bytes.resize(HEADER + REQUEST, 0);
    bytes
}

/// Shows the sockets of one reply, and returns whether it was the last one.
fn parse(mut reply: &[u8], show: &mut dyn FnMut(ConnectedSocket)) -> io::Result<bool> {
    while reply.len() >= HEADER {
        let length = usize::try_from(word(reply, 0)).unwrap_or(usize::MAX);
        let message = reply
            .get(..length)
            .filter(|message| message.len() >= HEADER);
        let message = message.ok_or(io::ErrorKind::InvalidData)?;
        match u16::from_ne_bytes([message[4], message[5]]) {
            NLMSG_DONE => return Ok(true),
            NLMSG_ERROR => {
                let code = word(message, HEADER).cast_signed();
                return Err(io::Error::from_raw_os_error(code.wrapping_neg()));
            }
            SOCK_DIAG_BY_FAMILY => {
                if let Some(socket) = socket(&message[HEADER..]) {
                    show(socket);
                }
            }
            _ => {}
        }
        reply = reply.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// Reads an `inet_diag_msg`.
fn socket(body: &[u8]) -> Option<ConnectedSocket> {
    let body = body.get(..MESSAGE)?;
    let port = |at: usize| u16::from_be_bytes([body[at], body[at + 1]]);
    let ip = |at: usize| match body[0] {
        AF_INET => Some(IpAddr::from(<[u8; 4]>::try_from(&body[at..at + 4]).ok()?)),
        AF_INET6 => Some(IpAddr::from(<[u8; 16]>::try_from(&body[at..at + 16]).ok()?)),
        _ => None,
    };
    Some(ConnectedSocket {
        connection: Connection {
            local: SocketAddr::new(ip(8)?, port(4)),
            remote: SocketAddr::new(ip(24)?, port(6)),
        },
        protocol: Protocol::Udp,
        // The lower half first, whatever the byte order.
        cookie: u64::from(word(body, 44)) | u64::from(word(body, 48)) << 32,
        interface: word(body, 40),
    })
}

/// Returns the number at `at`; 0 where there is none.
fn word(bytes: &[u8], at: usize) -> u32 {
    let bytes = bytes.get(at..).and_then(<[u8]>::first_chunk);
    bytes.copied().map_or(0, u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd as _;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn connected_sockets_are_found_with_their_cookies_and_others_are_not() {
        for (family, any) in [
            (AF_INET, "127.0.0.1:0"),
            (AF_INET6, "[::1]:0"),
            (AF_INET6, "[::ffff:127.0.0.1]:0"),
        ] {
            let server = UdpSocket::bind(any).unwrap();
            let client = UdpSocket::bind(any).unwrap();
            client.connect(server.local_addr().unwrap()).unwrap();
            let wanted = ConnectedSocket {
                connection: Connection {
                    local: client.local_addr().unwrap(),
                    remote: client.peer_addr().unwrap(),
                },
                protocol: Protocol::Udp,
                cookie: rustix::net::sockopt::socket_cookie(client.as_fd()).unwrap(),
                interface: 0,
            };
            let mut found = Vec::new();
            dump(family, &mut |socket| found.push(socket)).unwrap();
            assert!(found.contains(&wanted), "{wanted:?} {found:?}");
            let own = server.local_addr().unwrap();
            assert!(found.iter().all(|other| other.connection.local != own));
        }
    }

    proptest! {
        #[test]
        fn any_reply_is_survived(reply in prop::collection::vec(any::<u8>(), 0..200), kind in 0u16..30) {
            let mut show = |_: ConnectedSocket| {};
            let _outcome = parse(&reply, &mut show);
            let mut framed = u32::try_from(reply.len() + 16).unwrap().to_ne_bytes().to_vec();
            framed.extend(kind.to_ne_bytes());
            framed.resize(16, 0);
            framed.extend(reply);
            let _outcome = parse(&framed, &mut show);
        }
    }
}
