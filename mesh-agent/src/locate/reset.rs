//! Asks after one connection inside a workload's network namespace, and closes its socket (`SOCK_DESTROY`, sock_diag(7)).
#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::path::Path;
use std::thread;
use std::time::Duration;

use mesh_common::service::TCP;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::net::{netlink, recv, send, socket_with};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::model::service::Protocol;

pub(super) const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
pub(super) const NLMSG_ERROR: u16 = 2;
pub(super) const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const ESTALE: i32 = 116;
pub(super) const AF_INET: u8 = 2;
pub(super) const AF_INET6: u8 = 10;
/// Sizes of `nlmsghdr` and `inet_diag_req_v2`.
pub(super) const HEADER: usize = 16;
pub(super) const REQUEST: usize = 56;
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

/// One connected socket, which no other can be taken for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConnectedSocket {
    /// Its addresses.
    pub connection: Connection,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its cookie.
    pub cookie: u64,
    /// The interface that it is bound to (`SO_BINDTODEVICE`), without which the kernel does not find it; 0: none.
    pub interface: u32,
}

/// Which sockets a request is about.
struct Named<'a> {
    connection: &'a Connection,
    protocol: u8,
    /// `INET_DIAG_NOCOOKIE`: any.
    cookie: u64,
    /// 0: none.
    interface: u32,
}

impl<'a> Named<'a> {
    fn tcp(connection: &'a Connection) -> Self {
        Self {
            connection,
            protocol: TCP,
            cookie: u64::MAX,
            interface: 0,
        }
    }

    fn socket(socket: &'a ConnectedSocket) -> Self {
        Self {
            connection: &socket.connection,
            protocol: socket.protocol.number(),
            cookie: socket.cookie,
            interface: socket.interface,
        }
    }
}

/// Closes a connected socket in the namespace behind `handle`: its owner gets `ECONNABORTED`. Fine when it is there no more.
///
/// # Errors
///
/// As [`reset`].
pub fn close(handle: &Path, socket: &ConnectedSocket) -> io::Result<()> {
    ask(handle, SOCK_DESTROY, &Named::socket(socket)).map(drop)
}

/// As [`close`], in the network namespace that the calling thread is in.
pub(super) fn close_here(socket: &ConnectedSocket) -> io::Result<()> {
    converse(SOCK_DESTROY, &Named::socket(socket)).map(drop)
}

/// Resets a connection in the namespace behind `handle`. Fine when there is no such connection any more.
///
/// # Errors
///
/// Those of entering the namespace; `EOPNOTSUPP` where the kernel lacks `CONFIG_INET_DIAG_DESTROY`.
pub fn reset(handle: &Path, connection: &Connection) -> io::Result<()> {
    ask(handle, SOCK_DESTROY, &Named::tcp(connection)).map(drop)
}

/// Returns the bytes that lie unread in a connection's TCP queue; 0 when there is no such connection any more.
///
/// Unlike `FIONREAD`, this is TCP's own count also for a socket in a socket map.
///
/// # Errors
///
/// As [`reset`].
pub(super) fn unread(handle: &Path, connection: &Connection) -> io::Result<u32> {
    Ok(ask(handle, SOCK_DIAG_BY_FAMILY, &Named::tcp(connection))?.unwrap_or(0))
}

/// Makes a request of this kind in the namespace; returns the unread bytes where the answer has them.
fn ask(handle: &Path, kind: u16, named: &Named<'_>) -> io::Result<Option<u32>> {
    let namespace = File::open(handle)?;
    thread::scope(|scope| {
        let builder = thread::Builder::new().name("netns-reset".to_owned());
        let inside = move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            converse(kind, named)
        };
        let thread = builder.spawn_scoped(scope, inside)?;
        thread
            .join()
            .map_err(|_| io::Error::other("the thread in the namespace panicked"))?
    })
}

fn converse(kind: u16, named: &Named<'_>) -> io::Result<Option<u32>> {
    let protocol = Some(netlink::SOCK_DIAG);
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        protocol,
    )?;
    set_socket_timeout(&socket, Timeout::Recv, Some(TIMEOUT))?;
    send(&socket, &request(kind, named), SendFlags::empty())?;
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
                // Another socket has taken its addresses.
                gone if gone.raw_os_error() == Some(ESTALE) => Ok(None),
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
fn request(kind: u16, named: &Named<'_>) -> Vec<u8> {
    let Connection { local, remote } = named.connection;
    let mut bytes = Vec::with_capacity(HEADER + REQUEST);
    bytes.extend(72u32.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend((NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
    bytes.extend([0; 8]);
    let family = if local.is_ipv4() { AF_INET } else { AF_INET6 };
    bytes.extend([family, named.protocol, 0, 0]);
    // Any state.
    bytes.extend(u32::MAX.to_ne_bytes());
    bytes.extend(local.port().to_be_bytes());
    bytes.extend(remote.port().to_be_bytes());
    bytes.extend(padded(local.ip()));
    bytes.extend(padded(remote.ip()));
    bytes.extend(named.interface.to_ne_bytes());
    // The lower half first, whatever the byte order.
    let halves = [named.cookie & u64::from(u32::MAX), named.cookie >> 32];
    for half in halves {
        bytes.extend(u32::try_from(half).unwrap_or(u32::MAX).to_ne_bytes());
    }
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
    use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_request_has_the_size_that_its_header_says() {
        let address: SocketAddr = "10.0.0.1:80".parse().expect("an address");
        let connection = Connection {
            local: address,
            remote: address,
        };
        let bytes = request(SOCK_DESTROY, &Named::tcp(&connection));
        assert_eq!(bytes.len(), HEADER + REQUEST);
        assert_eq!(bytes[..4], 72u32.to_ne_bytes());
    }

    fn lacks_root() -> bool {
        let lacking = !rustix::process::geteuid().is_root();
        if lacking {
            assert!(std::env::var_os("CI").is_none(), "needs root");
            eprintln!("SKIPPED: needs root");
        }
        lacking
    }

    #[test]
    fn a_connected_socket_is_closed_and_another_with_its_addresses_is_not() {
        if lacks_root() {
            return;
        }
        let own = Path::new("/proc/self/ns/net");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bound");
        let stream = TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
        let server = UdpSocket::bind("[::1]:0").expect("bound");
        let datagrams = UdpSocket::bind("[::1]:0").expect("bound");
        datagrams
            .connect(server.local_addr().expect("bound"))
            .expect("connected");
        let cookie =
            |socket: &dyn AsFd| rustix::net::sockopt::socket_cookie(socket).expect("a cookie");
        let tcp = ConnectedSocket {
            connection: Connection {
                local: stream.local_addr().expect("connected"),
                remote: stream.peer_addr().expect("connected"),
            },
            protocol: Protocol::Tcp,
            cookie: cookie(&stream),
            interface: 0,
        };
        let udp = ConnectedSocket {
            connection: Connection {
                local: datagrams.local_addr().expect("connected"),
                remote: datagrams.peer_addr().expect("connected"),
            },
            protocol: Protocol::Udp,
            cookie: cookie(&datagrams),
            interface: 0,
        };
        let error = |kind: Protocol| match kind {
            Protocol::Tcp => stream.take_error().expect("asked"),
            Protocol::Udp => datagrams.take_error().expect("asked"),
        };
        for socket in [tcp, udp] {
            let other = ConnectedSocket {
                cookie: socket.cookie + 1000,
                ..socket
            };
            close(own, &other).expect("nothing to close");
            assert!(error(socket.protocol).is_none());
            close(own, &socket).expect("closed");
            let error = error(socket.protocol).expect("the socket is closed");
            assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
        }
        drop(datagrams);
        close(own, &udp).expect("nothing to close");
    }

    #[test]
    fn a_connection_is_reset_and_a_missing_one_is_fine() {
        if lacks_root() {
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
