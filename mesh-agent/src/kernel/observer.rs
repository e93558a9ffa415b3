//! The syscall tracepoints: attached only while some workload is being observed, since every process pays for them.

use aya::Ebpf;
use aya::programs::TracePoint;
use aya::programs::trace_point::TracePointLinkId;

use crate::kernel::mounts;
use crate::model::observed::Hook;

const PROGRAMS: &[(&str, &str)] = &[
    ("mesh_sendto", "sys_enter_sendto"),
    ("mesh_sendmsg", "sys_enter_sendmsg"),
    ("mesh_sendmmsg", "sys_enter_sendmmsg"),
    ("mesh_splice", "sys_enter_splice"),
    ("mesh_ioctl", "sys_enter_ioctl"),
    ("mesh_getsockopt", "sys_enter_getsockopt"),
    ("mesh_io_uring", "sys_enter_io_uring_setup"),
];

/// The observer's programs. They are not pinned: without an agent nobody decides on what they see.
pub(super) struct Observer {
    ebpf: Ebpf,
    links: Vec<(&'static str, TracePointLinkId)>,
    unavailable: Option<String>,
}

impl std::fmt::Debug for Observer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Observer")
            .field("unavailable", &self.unavailable)
            .finish_non_exhaustive()
    }
}

impl Observer {
    /// Makes sure that the tracepoints could be attached, by doing it once.
    pub(super) fn new(ebpf: Ebpf, failed: &[(String, String)]) -> Self {
        let mut observer = Self {
            ebpf,
            links: Vec::new(),
            unavailable: None,
        };
        let rejected = failed
            .iter()
            .find(|(name, _)| PROGRAMS.iter().any(|(program, _)| program == name));
        observer.unavailable = match rejected {
            Some((_, error)) => Some(error.clone()),
            None => mounts::ensure_tracefs()
                .map_err(anyhow::Error::from)
                .and_then(|()| observer.attach())
                .err()
                .map(|error| format!("{error:#}")),
        };
        observer.detach();
        observer
    }

    /// Returns why nobody can be observed, if so.
    pub(super) fn unavailable(&self) -> Option<&str> {
        self.unavailable.as_deref()
    }

    /// Attaches or detaches.
    pub(super) fn set(&mut self, needed: bool) {
        if self.unavailable.is_some() || needed != self.links.is_empty() {
            return;
        }
        if !needed {
            return self.detach();
        }
        if let Err(error) = self.attach() {
            tracing::error!(
                error = format!("{error:#}"),
                "failed to attach the observer; nobody is admitted meanwhile"
            );
            self.detach();
        }
    }

    /// Returns the programs for `status`.
    pub(super) fn hooks(&self) -> Vec<Hook> {
        let hook = |(program, tracepoint): &(&str, &str)| Hook {
            program: (*program).to_owned(),
            hook: format!("tracepoint {tracepoint}"),
            attached: match (&self.unavailable, self.links.is_empty()) {
                (Some(_), _) => Some(false),
                (None, true) => None,
                (None, false) => Some(true),
            },
            error: self.unavailable.clone(),
        };
        PROGRAMS.iter().map(hook).collect()
    }

    fn attach(&mut self) -> anyhow::Result<()> {
        for (name, tracepoint) in PROGRAMS {
            let program = self
                .ebpf
                .program_mut(name)
                .ok_or_else(|| anyhow::anyhow!("no program `{name}`"))?;
            let program: &mut TracePoint = program.try_into()?;
            self.links
                .push((name, program.attach("syscalls", tracepoint)?));
        }
        Ok(())
    }

    fn detach(&mut self) {
        for (name, link) in self.links.drain(..) {
            let program = self.ebpf.program_mut(name).map(<&mut TracePoint>::try_from);
            if let Some(Ok(program)) = program
                && let Err(error) = program.detach(link)
            {
                tracing::warn!(
                    error = crate::chain::chain(&error),
                    program = name,
                    "failed to detach"
                );
            }
        }
    }
}
