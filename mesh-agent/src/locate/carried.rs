//! How many TCP connections a port of a workload has: to learn whether anything still goes through the agent there.
#![forbid(unsafe_code)]

use std::fs;
use std::io;

use crate::locate::inside::{Place, inside};

/// The tables of the calling thread's own network namespace (proc_pid_net(5)). Without IPv6 there is only the first.
const TABLES: [&str; 2] = ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"];

/// Returns how many connections lead to a port inside the namespace. Blocking.
///
/// # Errors
///
/// Those of entering the namespace.
pub fn connections_to(place: &Place, port: u16) -> io::Result<usize> {
    inside(place, || {
        let mut count = 0;
        for table in TABLES {
            match fs::read_to_string(table) {
                Ok(text) => count += count_in(&text, port),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(count)
    })
}

/// Counts sockets that have this local port and a connection: that neither listen (`0A`), nor only remember one (`06`, `07`).
fn count_in(table: &str, port: u16) -> usize {
    let local = format!(":{port:04X}");
    let is_counted = |line: &&str| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let is_local = fields
            .next()
            .is_some_and(|address| address.ends_with(&local));
        let state = fields.nth(1);
        is_local && state.is_some_and(|state| !["06", "07", "0A"].contains(&state))
    };
    table.lines().filter(is_counted).count()
}

#[cfg(test)]
mod tests {
    use super::count_in;

    #[test]
    fn connections_to_a_port_are_counted() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
            0: 0100007F:3A99 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1\n   \
            1: 0100007F:3A99 0200000A:C350 01 00000000:00000000 00:00000000 00000000     0        0 2 1\n   \
            2: 0100007F:3A99 0200000A:C351 08 00000000:00000000 00:00000000 00000000     0        0 3 1\n   \
            3: 0100007F:3A99 0200000A:C352 06 00000000:00000000 00:00000000 00000000     0        0 0 3\n   \
            4: 0200000A:C350 0100007F:3A99 01 00000000:00000000 00:00000000 00000000     0        0 4 1\n";
        assert_eq!(count_in(table, 15_001), 2);
        assert_eq!(count_in(table, 50_000), 1);
        assert_eq!(count_in("", 15_001), 0);
    }
}
