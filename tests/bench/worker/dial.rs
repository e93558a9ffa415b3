//! Connects at a fixed rate, whatever becomes of each.

use std::collections::BTreeMap;
use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;
use serde::{Deserialize, Serialize};

use super::RESULT;

/// A connect that takes longer has failed: within one machine it takes a tenth of a millisecond.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// Whom to connect to.
    #[arg(long)]
    address: SocketAddr,
    /// Connects a second.
    #[arg(long)]
    rate: u32,
    /// For how long.
    #[arg(long)]
    seconds: u64,
}

/// How connects ended.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Tally {
    /// Connected, and closed by the other end as it should be.
    pub(crate) good: u64,
    /// Failed, by what the system said.
    pub(crate) failed: BTreeMap<String, u64>,
    /// Connects that came more than a second later than planned.
    pub(crate) late: u64,
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let mut tally = Tally::default();
    let period = Duration::from_secs(1) / arguments.rate.max(1);
    let begin = Instant::now();
    let length = Duration::from_secs(arguments.seconds);
    let mut planned = Duration::ZERO;
    while planned < length {
        let elapsed = begin.elapsed();
        if let Some(early) = planned.checked_sub(elapsed) {
            harness::wait::pause(early);
        } else if elapsed - planned > Duration::from_secs(1) {
            tally.late += 1;
        }
        planned += period;
        match once(arguments.address) {
            Ok(()) => tally.good += 1,
            Err(error) => *tally.failed.entry(error.to_string()).or_default() += 1,
        }
    }
    println!("{RESULT}{}", serde_json::to_string(&tally)?);
    Ok(())
}

fn once(address: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    match stream.read(&mut [0; 1])? {
        0 => Ok(()),
        _ => Err(std::io::Error::other("a byte came from nowhere")),
    }
}
