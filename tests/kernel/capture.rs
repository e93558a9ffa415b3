//! What went over a pod's interfaces: the handshakes' sequence numbers, known without asking the sockets.

use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use harness::{Pod, wait_for};
use socket2::{Domain, Protocol, Socket, Type};

/// A handshake as it was seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Handshake {
    /// Sequence number of the SYN.
    pub(crate) syn: u32,
    /// Sequence number of the SYN-ACK.
    pub(crate) syn_ack: u32,
}

/// Takes every IPv4 packet that a pod sends or receives from now on.
#[derive(Debug)]
pub(crate) struct Capture {
    socket: Socket,
    seen: Vec<Segment>,
}

#[derive(Debug)]
struct Segment {
    from: SocketAddrV4,
    to: SocketAddrV4,
    number: u32,
    flags: u8,
}

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

impl Capture {
    pub(crate) fn new(pod: &Pod) -> Self {
        // `ETH_P_ALL`, in network order: only this one also sees what is sent.
        let all = Protocol::from(i32::from(3u16.to_be()));
        let open = || Socket::new(Domain::PACKET, Type::DGRAM, Some(all));
        let socket = pod.enter(open).unwrap().unwrap();
        socket.set_nonblocking(true).unwrap();
        Self {
            socket,
            seen: Vec::new(),
        }
    }

    /// Returns the handshake of the connection from `client` to `server`.
    pub(crate) fn handshake(&mut self, client: SocketAddrV4, server: SocketAddrV4) -> Handshake {
        let mut found = None;
        wait_for("the handshake to pass", Duration::from_secs(10), || {
            self.take();
            let number = |from, to, flags| {
                let mut segments = self.seen.iter();
                let first = segments.find(|segment| {
                    (segment.from, segment.to) == (from, to) && segment.flags & (SYN | ACK) == flags
                });
                first.map(|segment| segment.number)
            };
            let syn = number(client, server, SYN);
            let syn_ack = number(server, client, SYN | ACK);
            found = syn
                .zip(syn_ack)
                .map(|(syn, syn_ack)| Handshake { syn, syn_ack });
            found.is_some()
        })
        .unwrap();
        found.unwrap()
    }

    fn take(&mut self) {
        let mut packet = [0; 65_536];
        while let Ok(length) = (&self.socket).read(&mut packet) {
            self.seen.extend(tcp(&packet[..length]));
        }
    }
}

/// Reads the headers of an IPv4 packet (RFC 791) that holds a TCP segment (RFC 9293).
fn tcp(packet: &[u8]) -> Option<Segment> {
    let [first, ..] = packet else { return None };
    if first >> 4 != 4 || *packet.get(9)? != 6 {
        return None;
    }
    let segment = packet.get(usize::from(first & 0xf) * 4..)?;
    let address = |at: usize| {
        let octets: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
        Some(Ipv4Addr::from(octets))
    };
    let port = |at: usize| {
        let bytes: [u8; 2] = segment.get(at..at + 2)?.try_into().ok()?;
        Some(u16::from_be_bytes(bytes))
    };
    let number: [u8; 4] = segment.get(4..8)?.try_into().ok()?;
    Some(Segment {
        from: SocketAddrV4::new(address(12)?, port(0)?),
        to: SocketAddrV4::new(address(16)?, port(2)?),
        number: u32::from_be_bytes(number),
        flags: *segment.get(13)?,
    })
}
