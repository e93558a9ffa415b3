//! Takes bulk streams out of the socket map, where each of their messages pays for being in it without gaining.
//!
//! Deleting a live socket from the map drops what lies unread in its redirect queue, so three things come first. A program has
//! marked the flow as leaving, and every program that starts after that redirects nothing of it. A grace period is over, so
//! every program that may have started before has ended, and what it redirected is counted as sent. And both ends have
//! read all that was ever redirected to them. Then the queues are empty, and stay so.

use std::io;
use std::os::fd::BorrowedFd;

use mesh_common::flow::FlowCell;
use mesh_common::sock::SockKey;

use crate::kernel::maps::Maps;
use crate::kernel::sys;

/// Flows that wait to leave at once. More stay in the map, which costs them speed, not bytes.
const WAITING_MAX: usize = 1024;

/// Flows that asked to leave the socket map.
#[derive(Debug, Default)]
pub(crate) struct Leaving {
    cells: Vec<u32>,
}

impl Leaving {
    /// Takes note of a flow that asks to leave, by its cell's number.
    pub(crate) fn ask(&mut self, cell: u32) {
        if self.cells.len() < WAITING_MAX && !self.cells.contains(&cell) {
            self.cells.push(cell);
        }
    }

    /// Lets every flow leave whose time has come; the others are met again at the next call.
    ///
    /// `server_netns` returns the network namespace of a flow's server.
    ///
    /// # Errors
    ///
    /// The kernel's; the flows stay in the map.
    pub(crate) fn step(
        &mut self,
        maps: &Maps,
        server_netns: impl Fn(&SockKey) -> Option<u64>,
    ) -> io::Result<()> {
        if self.cells.is_empty() {
            return Ok(());
        }
        // Marks that are seen now were set before the grace period.
        let marked: Vec<SockKey> = self
            .marked(maps)?
            .into_iter()
            .map(|(client, ..)| client)
            .collect();
        sys::rcu_grace_period()?;
        let mut waiting = Vec::new();
        for (client, number, cell) in self.marked(maps)? {
            let Some(netns) = server_netns(&client) else {
                continue;
            };
            if !marked.contains(&client) || !is_drained(&cell) {
                waiting.push(number);
                continue;
            }
            delete(maps.sockets(), &client)?;
            delete(maps.sockets(), &client.mirrored(netns))?;
        }
        self.cells = waiting;
        Ok(())
    }

    /// Returns the flows that asked and still live: the client's key, the cell's number, and the cell.
    fn marked(&self, maps: &Maps) -> io::Result<Vec<(SockKey, u32, FlowCell)>> {
        let flows = maps.flow_cells()?.into_iter();
        let asked = |(_, number, cell): &(SockKey, u32, FlowCell)| {
            self.cells.contains(number) && cell.client.leaving | cell.server.leaving != 0
        };
        Ok(flows.filter(asked).collect())
    }
}

/// Returns whether both ends have read all that was redirected to them.
fn is_drained(cell: &FlowCell) -> bool {
    cell.client.redirect_sent == cell.server.redirect_read
        && cell.server.redirect_sent == cell.client.redirect_read
}

fn delete(sockets: BorrowedFd<'_>, key: &SockKey) -> io::Result<()> {
    match sys::map_delete(sockets, bytemuck::bytes_of(key)) {
        // It has closed meanwhile.
        Err(error)
            if error.kind() != io::ErrorKind::NotFound
                && error.raw_os_error() != Some(libc::EINVAL) =>
        {
            Err(error)
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use mesh_common::redirect::Progress;

    use super::*;

    #[test]
    fn a_flow_with_unread_bytes_either_way_is_not_drained() {
        let end = |sent, read| Progress {
            redirect_sent: sent,
            redirect_read: read,
            ..Progress::default()
        };
        let cell = |client, server| FlowCell { client, server };
        assert!(is_drained(&cell(end(5, 7), end(7, 5))));
        assert!(!is_drained(&cell(end(6, 7), end(7, 5))));
        assert!(!is_drained(&cell(end(5, 7), end(8, 5))));
    }
}
