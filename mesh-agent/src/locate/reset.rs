//! Asks after one TCP connection inside a workload's network namespace, and resets it (`SOCK_DESTROY`, sock_diag(7)).
#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::path::Path;
use std::thread;
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::net::{netlink, recv, send, socket_with};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const IPPROTO_TCP: u8 = 6;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// Sizes of `nlmsghdr` and `inet_diag_req_v2`.
const HEADER: usize = 16;
const REQUEST: usize = 56;
/// Where an answer (`inet_diag_msg`) has `idiag_rqueue`.
const UNREAD: usize = HEADER + 56;

/// The kernel answers in microseconds; this only keeps a bug from hanging the agent.
const TIMEOUT: Duration = Duration::from_secs(1);

/// One end of a TCP connection: its own address, and the other's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Connection {
    /// The socket's own address.
    pub local: SocketAddr,
    /// The other end's.
    pub remote: SocketAddr,
}

/// Resets a connection in the namespace behind `handle`. Fine when there is no such connection any more.
///
/// # Errors
///
/// Those of entering the namespace; `EOPNOTSUPP` where the kernel lacks `CONFIG_INET_DIAG_DESTROY`.
pub fn reset(handle: &Path, connection: &Connection) -> io::Result<()> {
    ask(handle, SOCK_DESTROY, connection).map(drop)
}

/// Returns the bytes that lie unread in a connection's TCP queue; 0 when there is no such connection any more.
///
/// Unlike `FIONREAD`, this is TCP's own count also for a socket in a socket map.
///
/// # Errors
///
/// As [`reset`].
pub(super) fn unread(handle: &Path, connection: &Connection) -> io::Result<u32> {
    Ok(ask(handle, SOCK_DIAG_BY_FAMILY, connection)?.unwrap_or(0))
}

/// Makes a request of this kind in the namespace; returns the unread bytes where the answer has them.
fn ask(handle: &Path, kind: u16, connection: &Connection) -> io::Result<Option<u32>> {
    let namespace = File::open(handle)?;
    thread::scope(|scope| {
        let builder = thread::Builder::new().name("netns-reset".to_owned());
        let inside = move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            converse(kind, connection)
        };
        let thread = builder.spawn_scoped(scope, inside)?;
        thread
            .join()
            .map_err(|_| io::Error::other("the thread in the namespace panicked"))?
    })
}

fn converse(kind: u16, connection: &Connection) -> io::Result<Option<u32>> {
    let protocol = Some(netlink::SOCK_DIAG);
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        protocol,
    )?;
    set_socket_timeout(&socket, Timeout::Recv, Some(TIMEOUT))?;
    send(&socket, &request(kind, connection), SendFlags::empty())?;
    let mut reply = [0; 1024];
    let (bytes, _) = recv(&socket, &mut reply[..], RecvFlags::empty())?;
    let number = |at: usize| {
        reply
            .get(at..at + 4)?
            .try_into()
            .ok()
            .map(i32::from_ne_bytes)
    };
    let kind = u16::from_ne_bytes([reply[4], reply[5]]);
    match number(HEADER) {
        Some(code) if bytes >= HEADER + 4 && kind == NLMSG_ERROR => {
            match io::Error::from_raw_os_error(-code) {
                _ if code == 0 => Ok(None),
                gone if gone.kind() == io::ErrorKind::NotFound => Ok(None),
                error => Err(error),
            }
        }
        _ if bytes >= UNREAD + 4 && kind == SOCK_DIAG_BY_FAMILY => {
            Ok(number(UNREAD).map(i32::cast_unsigned))
        }
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// An `nlmsghdr` and an `inet_diag_req_v2` that names the connection.
fn request(kind: u16, connection: &Connection) -> Vec<u8> {
    let Connection { local, remote } = connection;
    let mut bytes = Vec::with_capacity(HEADER + REQUEST);
    bytes.extend(72u32.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend((NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
    bytes.extend([0; 8]);
    let family = if local.is_ipv4() { AF_INET } else { AF_INET6 };
    bytes.extend([family, IPPROTO_TCP, 0, 0]);
    // Any state.
    bytes.extend(u32::MAX.to_ne_bytes());
    bytes.extend(local.port().to_be_bytes());
    bytes.extend(remote.port().to_be_bytes());
    bytes.extend(padded(local.ip()));
    bytes.extend(padded(remote.ip()));
    // Any interface, any cookie (INET_DIAG_NOCOOKIE).
    bytes.extend([0; 4]);
    bytes.extend([0xff; 8]);
    bytes
}

/// An address in the 16 bytes that there are for both families.
fn padded(ip: IpAddr) -> [u8; 16] {
    let mut bytes = [0; 16];
    match ip {
        IpAddr::V4(ip) => bytes[..4].copy_from_slice(&ip.octets()),
        IpAddr::V6(ip) => bytes = ip.octets(),
    }
    bytes
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::{Ipv4Addr, TcpListener, TcpStream};
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_request_has_the_size_that_its_header_says() {
        let address: SocketAddr = "10.0.0.1:80".parse().expect("an address");
        let connection = Connection {
            local: address,
            remote: address,
        };
        let bytes = request(SOCK_DESTROY, &connection);
        assert_eq!(bytes.len(), HEADER + REQUEST);
        assert_eq!(bytes[..4], 72u32.to_ne_bytes());
    }

    #[test]
    fn a_connection_is_reset_and_a_missing_one_is_fine() {
        if !rustix::process::geteuid().is_root() {
            assert!(std::env::var_os("CI").is_none(), "needs root");
            eprintln!("SKIPPED: needs root");
            return;
        }
        let own = Path::new("/proc/self/ns/net");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bound");
        let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
        let connection = Connection {
            local: client.local_addr().expect("connected"),
            remote: client.peer_addr().expect("connected"),
        };
        let (mut server, _) = listener.accept().expect("connected");
        server.write_all(&[7; 100]).expect("written");
        let looked = Instant::now();
        while unread(own, &connection).expect("asked") != 100 {
            assert!(looked.elapsed() < TIMEOUT, "the bytes never came");
        }
        reset(own, &connection).expect("reset");
        // What lies unread could be read before the error.
        let error = client.take_error().expect("asked");
        let error = error.expect("the connection is gone");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
        drop(client);
        reset(own, &connection).expect("nothing to reset");
        assert_eq!(unread(own, &connection).expect("nothing to ask after"), 0);
    }
}
