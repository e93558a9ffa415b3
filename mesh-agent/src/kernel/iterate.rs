//! Passes over every live socket of a kind, in the kernel: what their state is, what they dialled, where they listen.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::thread;

use aya::Ebpf;
use aya::programs::Iter;
use bytemuck::AnyBitPattern;
use mesh_common::flow::FlowRecord;
use mesh_common::service::OpenDial;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::kernel::maps::Maps;
use crate::kernel::sys;

/// The iterator programs; `None` for each that the kernel did not take.
#[derive(Debug)]
pub(super) struct Iterators {
    flows: Option<OwnedFd>,
    dials: Option<OwnedFd>,
    listeners: Option<OwnedFd>,
}

impl Iterators {
    /// Returns those of a loaded object.
    pub(super) fn of(ebpf: &Ebpf) -> Self {
        Self {
            flows: program(ebpf, "mesh_flows"),
            dials: program(ebpf, "mesh_dials"),
            listeners: program(ebpf, "mesh_listeners"),
        }
    }

    /// Brings pair counters up to date and returns the live flows.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub(super) fn live_flows(&self, maps: &Maps) -> io::Result<Vec<FlowRecord>> {
        shown(self.flows.as_ref(), maps.sock_states.fd())
    }

    /// Counts off the sockets that are connected no more and returns the connected UDP sockets whose backend takes no new ones.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub(super) fn dials_to_leave(&self, maps: &Maps) -> io::Result<Vec<OpenDial>> {
        // What TCP sockets dialled is part of their state; none of them is shown.
        let tcp = shown(self.dials.as_ref(), maps.sock_states.fd())?;
        let udp = shown(self.dials.as_ref(), maps.dials.fd())?;
        Ok([tcp, udp].concat())
    }

    /// Counts the sockets that listen in a network namespace and are not counted yet. Blocking: a thread of its own goes there.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub(super) fn find_listeners(&self, namespace: &File) -> io::Result<()> {
        let Some(program) = &self.listeners else {
            return Ok(());
        };
        thread::scope(|scope| {
            let builder = thread::Builder::new().name("netns-listeners".to_owned());
            let inside = || {
                let network = Some(LinkNameSpaceType::Network);
                move_into_link_name_space(namespace.as_fd(), network)?;
                let passing = sys::iterate(program.as_fd(), None)?;
                // It writes nothing.
                io::copy(&mut File::from(passing), &mut io::sink()).map(drop)
            };
            let thread = builder.spawn_scoped(scope, inside)?;
            let panicked = |_| io::Error::other("the thread in the namespace panicked");
            thread.join().map_err(panicked)?
        })
    }
}

/// Returns a program of a loaded object.
pub(super) fn program(ebpf: &Ebpf, name: &str) -> Option<OwnedFd> {
    let program: &Iter = ebpf.program(name)?.try_into().ok()?;
    program.fd().ok()?.as_fd().try_clone_to_owned().ok()
}

/// Runs the program for every socket that has storage in `map`; returns what it wrote.
fn shown<T: AnyBitPattern>(program: Option<&OwnedFd>, map: BorrowedFd<'_>) -> io::Result<Vec<T>> {
    let Some(program) = program else {
        return Ok(Vec::new());
    };
    let mut bytes = Vec::new();
    File::from(sys::iterate(program.as_fd(), Some(map))?).read_to_end(&mut bytes)?;
    Ok(bytes
        .chunks_exact(size_of::<T>())
        .map(bytemuck::pod_read_unaligned)
        .collect())
}
