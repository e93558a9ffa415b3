//! Dials an endpoint from inside a workload's network namespace, or from the node's own.
#![forbid(unsafe_code)]

use std::io;
use std::net::SocketAddr;

use socket2::{Domain, Socket, Type};
use tokio::net::{TcpSocket, TcpStream};

use crate::locate::inside::{Place, inside};

/// Connects; the caller bounds the time.
///
/// # Errors
///
/// Those of entering the namespace and of connecting.
pub(super) async fn dial(place: Option<&Place>, address: SocketAddr) -> io::Result<TcpStream> {
    let make = move || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    let socket = match place.cloned() {
        // A tokio worker never changes its namespace, and does not wait for a thread that does.
        Some(place) => tokio::task::spawn_blocking(move || inside(&place, make)).await??,
        None => make()?,
    };
    // A socket stays in the namespace that it was made in.
    TcpSocket::from_std_stream(socket.into())
        .connect(address)
        .await
}
