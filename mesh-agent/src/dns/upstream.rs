//! Who is asked about everything else: given addresses, or those of /etc/resolv.conf, which may change.

#![forbid(unsafe_code)]

use std::fs::File;
use std::io::Read as _;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::dns::{UPSTREAMS_MAX, limits};

/// Name servers to ask.
#[derive(Debug)]
pub(super) struct Upstreams {
    /// Where to read them, if they are not fixed.
    file: Option<PathBuf>,
    /// Our own addresses, which are never asked.
    own: Vec<SocketAddr>,
    known: Mutex<Known>,
}

#[derive(Debug)]
struct Known {
    servers: Vec<SocketAddr>,
    read: Option<Instant>,
}

impl Upstreams {
    /// Returns those given, or else those that `file` names, but never `own`.
    pub(super) fn new(given: Option<Vec<SocketAddr>>, file: PathBuf, own: Vec<SocketAddr>) -> Self {
        let file = given.is_none().then_some(file);
        let mut servers = given.unwrap_or_default();
        servers.retain(|server| {
            let is_own = own.contains(server);
            if is_own {
                tracing::error!(%server, "--dns-upstream names the agent itself: it is left out, since it would ask itself for ever");
            }
            !is_own
        });
        let known = Mutex::new(Known {
            servers,
            read: None,
        });
        Self { file, own, known }
    }

    /// Returns whom to ask, in this order.
    pub(super) fn servers(&self) -> Vec<SocketAddr> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(path) = &self.file
            && known
                .read
                .is_none_or(|read| read.elapsed() >= limits::REREAD)
        {
            known.read = Some(Instant::now());
            // The few kilobytes of a local file: not worth a thread.
            let mut text = String::new();
            let read = File::open(path)
                .and_then(|file| file.take(limits::RESOLV_BYTES).read_to_string(&mut text));
            match read {
                Ok(_) => known.servers = name_servers(&text, &self.own),
                Err(error) => tracing::debug!(%error, "failed to read `{}`", path.display()),
            }
        }
        known.servers.clone()
    }
}

/// Returns the addresses on `nameserver` lines, but never `own` ones.
fn name_servers(text: &str, own: &[SocketAddr]) -> Vec<SocketAddr> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            let is_server = words.next() == Some("nameserver");
            let ip: IpAddr = words.next().filter(|_| is_server)?.parse().ok()?;
            Some(SocketAddr::new(ip, 53))
        })
        .filter(|server| !own.contains(server))
        .take(UPSTREAMS_MAX)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_is_read_as_the_c_library_does() {
        let text = "# nameserver 1.1.1.1\nsearch a b\nnameserver 192.0.2.1 \nnameserver\tfd00::53\n\
                    nameserver fe80::1%eth0\nnameserver x\noptions ndots:5\nnameserver 192.0.2.9\nnameserver 192.0.2.3\n";
        let own = ["192.0.2.9:53".parse().unwrap()];
        let found: Vec<String> = name_servers(text, &own)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(found, ["192.0.2.1:53", "[fd00::53]:53", "192.0.2.3:53"]);
    }

    #[test]
    fn the_agent_never_asks_itself() {
        let own: SocketAddr = "192.0.2.9:53".parse().unwrap();
        let other: SocketAddr = "192.0.2.1:53".parse().unwrap();
        let given = Some(vec![own, other]);
        let upstreams = Upstreams::new(given, PathBuf::new(), vec![own]);
        assert_eq!(upstreams.servers(), [other]);
    }

    #[test]
    fn a_file_that_is_not_there_names_nobody() {
        let upstreams = Upstreams::new(None, "/nonexistent/resolv.conf".into(), Vec::new());
        assert_eq!(upstreams.servers(), []);
    }
}
