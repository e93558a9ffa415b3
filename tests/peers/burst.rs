//! Many short connections at once, each with several writes right after `connect`: where bytes are overtaken, they are here.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use harness::bytes::Stream;

/// Sizes of the writes: small, so that each is a message of its own; so many that the flows are not too short for redirect.
const WRITES: [usize; 8] = [10, 100, 1, 300, 20, 7, 50, 3];

/// Serves for ever: reads each connection to its end and answers with what came.
pub(crate) fn serve(address: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(address).context("failed to listen")?;
    println!(
        "ready {}",
        listener
            .local_addr()
            .context("the listener has no address")?
    );
    loop {
        let (mut stream, _) = listener.accept().context("failed to accept")?;
        std::thread::spawn(move || {
            let mut bytes = vec![0; WRITES.iter().sum()];
            // A connection that fails here shows as a wrong answer at its other end.
            if stream.read_exact(&mut bytes).is_ok() {
                stream.write_all(&bytes).ok();
            }
        });
    }
}

/// Makes `count` connections on each of `threads` threads, and says how many were answered right.
pub(crate) fn drive(address: SocketAddr, threads: u64, count: u64) -> Result<()> {
    let (right, wrong) = (AtomicU32::new(0), AtomicU32::new(0));
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (right, wrong) = (&right, &wrong);
            scope.spawn(move || {
                for number in 0..count {
                    let seed = thread * count + number;
                    let counter = match once(address, Stream(seed)) {
                        Ok(true) => right,
                        Ok(false) => wrong,
                        Err(error) => {
                            eprintln!("{error:#}");
                            wrong
                        }
                    };
                    counter.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    println!("{} right, {} wrong", right.into_inner(), wrong.into_inner());
    Ok(())
}

fn once(address: SocketAddr, stream: Stream) -> Result<bool> {
    let mut socket = TcpStream::connect(address).context("failed to connect")?;
    socket
        .set_nodelay(true)
        .context("failed to set an option")?;
    let mut bytes: Vec<u8> = vec![0; WRITES.iter().sum()];
    stream.fill(0, &mut bytes);
    let mut rest = bytes.as_slice();
    for size in WRITES {
        let (now, later) = rest.split_at(size);
        socket.write_all(now).context("failed to write")?;
        rest = later;
    }
    let mut answer = vec![0; bytes.len()];
    socket.read_exact(&mut answer).context("failed to read")?;
    socket.shutdown(Shutdown::Both).ok();
    Ok(answer == bytes)
}
