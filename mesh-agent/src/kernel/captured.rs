//! Connections that go through the agent: what the kernel hands over of them, and what it has to know of the agent's sockets.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::sync::TryLockError;

use bytemuck::Zeroable as _;
use mesh_common::addr::{Addr, PortBe};
use mesh_common::handover::{CaptureCounters, Handover, HandoverKey};
use mesh_common::listener::Listening;
use mesh_common::service::{BackendEntry, DIAL_PASSED, DIAL_UPSTREAM, Dial, UNKNOWN_SERVICE};
use mesh_common::sock::SockState;
use mesh_common::workload::Control;

use crate::kernel::services::BackendNumber;
use crate::kernel::{Kernel, lock};
use crate::model::balanced::{Carries, PortId, Upstream};
use std::sync::Arc;

/// Words of a [`BackendEntry`] that are added to here as programs do.
const OPEN: usize = std::mem::offset_of!(BackendEntry, open) / 8;
const PICKED: usize = std::mem::offset_of!(BackendEntry, picked) / 8;

impl Kernel {
    /// Says on which port the agent listens on the loopback addresses of workloads' network namespaces; 0: on none. Connections go
    /// there only where there is a listener that [`Kernel::mark_listener`] knows.
    ///
    /// # Errors
    ///
    /// Where the hooks do not see the agent's own sockets; where the map cannot be read or written.
    pub fn set_proxy_port(&self, port: u16) -> io::Result<()> {
        if port != 0 && !self.sees(&UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?)? {
            return Err(io::Error::other(
                "the agent is not in the cgroup that its hooks are attached to (--cgroup), so what it does for workloads would be neither judged nor counted",
            ));
        }
        // Whoever else changes the settings holds this as well: each reads and writes all of them.
        let _registry = lock(&self.registry);
        let control = self.control()?;
        let proxy_port = PortBe::new(port);
        if control.proxy_port == proxy_port {
            return Ok(());
        }
        self.maps.control.set(
            &0,
            &Control {
                proxy_port,
                ..control
            },
        )
    }

    /// Returns whether the hooks see this socket: whether it was made in the cgroup that they are attached to, or below. Connects it
    /// to itself.
    ///
    /// Tried, since paths do not tell in a cgroup namespace: it is given a peer's name that it does not have.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn sees(&self, socket: &UdpSocket) -> io::Result<bool> {
        /// Of TEST-NET-1 (RFC 5737), which nobody has.
        const NOBODY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
        let own = socket.local_addr()?;
        socket.connect(own)?;
        let dial = Dial {
            dialled: Addr::from(IpAddr::from(NOBODY)),
            dialled_port: PortBe::new(1),
            backend: own.ip().into(),
            backend_port: PortBe::new(own.port()),
            service: UNKNOWN_SERVICE,
            ..Dial::default()
        };
        self.maps.dials.set(&socket.as_raw_fd(), &dial)?;
        Ok(socket.peer_addr()?.ip() == NOBODY)
    }

    /// Takes what the client at this address, in the network namespace with this cookie, has dialled; `None` where it was not led
    /// to the agent by the kernel, or somebody took it before.
    pub fn take_handover(
        &self,
        netns: u64,
        client: SocketAddr,
    ) -> Option<(Arc<PortId>, SocketAddr)> {
        let key = HandoverKey {
            netns,
            address: Addr::from(client.ip()),
            port: PortBe::new(client.port()),
            _pad: [0; 3],
        };
        // Most are there where there are many.
        if let Some(brief) = self.maps.briefs.take(&key) {
            return self.told(brief.service, brief.dialled, brief.dialled_port);
        }
        let taken: io::Result<Option<Handover>> = self.maps.handovers.take(&key);
        let handover = match taken {
            Ok(handover) => handover?,
            Err(error) => {
                tracing::error!(%error, "failed to read what a captured client dialled");
                return None;
            }
        };
        self.told(handover.service, handover.dialled, handover.dialled_port)
    }

    fn told(&self, service: u32, address: Addr, port: PortBe) -> Option<(Arc<PortId>, SocketAddr)> {
        let id = self.names.get(service)?;
        Some((id, SocketAddr::new(address.into(), port.number())))
    }

    /// Marks a socket in a workload's network namespace as the agent's, before it listens. What it accepts is known by its handover.
    ///
    /// # Errors
    ///
    /// The kernel's: without the mark nothing is led there.
    pub fn mark_listener(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        let listening = Listening {
            agents: 1,
            ..Listening::default()
        };
        self.maps.listening.set(&socket.as_raw_fd(), &listening)
    }

    /// Marks a socket in a workload's network namespace, before it connects, as the agent's that goes to a backend on the
    /// workload's behalf: it is judged as the workload's, neither balanced nor captured, and its flow is the workload's to the
    /// service that was dialled. The backend counts it as open until it ends.
    ///
    /// Never waits: where the table of services is just being written, the backend does not count it.
    ///
    /// # Errors
    ///
    /// The kernel's: the socket is not to be connected then.
    pub fn mark_upstream(&self, socket: BorrowedFd<'_>, upstream: &Upstream<'_>) -> io::Result<()> {
        let Upstream {
            service,
            dialled,
            backend,
            address,
            carries,
        } = *upstream;
        let v4 = Addr::from(dialled.ip()).is_v4();
        let number = self.names.number(service, v4).unwrap_or(UNKNOWN_SERVICE);
        // Held until the backend counts the socket, or its number might be given to another.
        let state = match self.services.try_lock() {
            Ok(state) => Some(state),
            Err(TryLockError::Poisoned(held)) => Some(held.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        };
        let listed = state.and_then(|state| {
            let listed = state.listed(&self.maps, backend, address)?;
            self.maps.backends.add(listed.number, OPEN, 1);
            Some(listed)
        });
        let BackendNumber {
            number: own,
            generation,
        } = listed.unwrap_or_default();
        let dial = Dial {
            dialled: dialled.ip().into(),
            dialled_port: PortBe::new(dialled.port()),
            backend: address.ip().into(),
            backend_port: PortBe::new(address.port()),
            service: number,
            backend_number: own,
            generation,
            kind: match carries {
                Carries::Requests => DIAL_UPSTREAM,
                Carries::Bytes => DIAL_PASSED,
            },
            ..Dial::default()
        };
        let mut socket_state = SockState::zeroed();
        socket_state.dial = dial;
        let states = &self.maps.sock_states;
        let marked = states.set(&socket.as_raw_fd(), &socket_state);
        if own != 0 {
            match &marked {
                Ok(()) => self.maps.backends.add(own, PICKED, 1),
                Err(_) => self.maps.backends.add(own, OPEN, u64::MAX),
            }
        }
        marked
    }

    /// Returns how many connections go through the agent, and how many could not.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn capture_counters(&self) -> io::Result<CaptureCounters> {
        Ok(self.maps.captured.get(&0)?.unwrap_or_default())
    }
}
