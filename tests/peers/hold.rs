//! Many connections that stay open.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use anyhow::{Context, Result};

/// Accepts, answers one byte on each connection, and keeps all of them.
pub(crate) fn serve(address: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(address).context("failed to listen")?;
    println!(
        "ready {}",
        listener
            .local_addr()
            .context("the listener has no address")?
    );
    let mut held = Vec::new();
    loop {
        let (mut stream, _) = listener.accept().context("failed to accept")?;
        let mut byte = [0; 1];
        stream
            .read_exact(&mut byte)
            .context("failed to read a byte")?;
        stream.write_all(&byte).context("failed to write a byte")?;
        held.push(stream);
    }
}

/// Opens `count` connections, sees a byte come back on each, and keeps all of them.
pub(crate) fn connect(address: SocketAddr, count: usize) -> Result<()> {
    let mut held = Vec::with_capacity(count);
    for _ in 0..count {
        let mut stream = TcpStream::connect(address).context("failed to connect")?;
        stream.write_all(b"x").context("failed to write a byte")?;
        stream
            .read_exact(&mut [0; 1])
            .context("failed to read a byte")?;
        held.push(stream);
    }
    println!("held {count}");
    loop {
        std::thread::park();
    }
}
