//! The look-up program in the network namespaces of workloads that policies for ingress apply to: a pinned link for each.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;

use aya::Ebpf;
use aya_obj::generated::bpf_attach_type;

use crate::kernel::sys;

/// What pins of these links begin with; the cookie of the namespace follows.
const PREFIX: &str = "mesh_lookup-";

/// Opens the network namespace with a cookie.
pub type OpenNetns<'a> = &'a dyn Fn(u64) -> io::Result<File>;

/// The links.
#[derive(Debug)]
pub(super) struct Lookups {
    dir: PathBuf,
    program: Result<OwnedFd, String>,
    attached: BTreeSet<u64>,
}

impl Lookups {
    /// Takes over the links that are there, each with the program of this agent.
    pub(super) fn adopt(
        dir: PathBuf,
        ebpf: &Ebpf,
        failed: &[(String, String)],
    ) -> io::Result<Self> {
        let load_error = failed.iter().find(|(name, _)| name == "mesh_lookup");
        let program = match (load_error, ebpf.program("mesh_lookup")) {
            (Some((_, error)), _) => Err(error.clone()),
            (None, None) => Err("not in the kernel object".to_owned()),
            (None, Some(program)) => match program.fd() {
                Ok(fd) => Ok(fd.as_fd().try_clone_to_owned()?),
                Err(error) => Err(error.to_string()),
            },
        };
        let mut lookups = Self {
            dir,
            program,
            attached: BTreeSet::new(),
        };
        for entry in std::fs::read_dir(&lookups.dir)? {
            let name = entry?.file_name();
            let cookie = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
            if let Some(netns) = cookie.and_then(|cookie| cookie.parse().ok()) {
                lookups.take_over(netns)?;
            }
        }
        Ok(lookups)
    }

    fn take_over(&mut self, netns: u64) -> io::Result<()> {
        let Ok(program) = &self.program else {
            return Ok(());
        };
        let link = sys::open_pinned(&self.path(netns))?;
        let same =
            sys::link_program_tag(link.as_fd()).ok() == Some(sys::program_tag(program.as_fd())?);
        if same || sys::link_update(link.as_fd(), program.as_fd()).is_ok() {
            self.attached.insert(netns);
            return Ok(());
        }
        // The namespace is gone, and with it all that the link did.
        std::fs::remove_file(self.path(netns))
    }

    /// Attaches the program to a namespace, unless it is.
    pub(super) fn attach(&mut self, netns: u64, open: OpenNetns<'_>) -> io::Result<()> {
        if self.attached.contains(&netns) {
            return Ok(());
        }
        let program = match &self.program {
            Ok(program) => program.as_fd(),
            Err(error) => return Err(io::Error::other(error.clone())),
        };
        let namespace = open(netns)?;
        let link = sys::link_create(program, namespace.as_fd(), bpf_attach_type::BPF_SK_LOOKUP)?;
        sys::pin(link.as_fd(), &self.path(netns))?;
        self.attached.insert(netns);
        Ok(())
    }

    /// Detaches the program from every namespace but these.
    pub(super) fn keep(&mut self, wanted: impl Fn(u64) -> bool) -> io::Result<()> {
        let leaving: Vec<u64> = self
            .attached
            .iter()
            .copied()
            .filter(|n| !wanted(*n))
            .collect();
        for netns in leaving {
            match std::fs::remove_file(self.path(netns)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => self.attached.remove(&netns),
            };
        }
        Ok(())
    }

    /// Returns whether what comes to a namespace is judged.
    pub(super) fn is_attached(&self, netns: u64) -> bool {
        self.attached.contains(&netns)
    }

    /// Returns the number of namespaces.
    pub(super) fn count(&self) -> usize {
        self.attached.len()
    }

    /// Returns why the program is nowhere.
    pub(super) fn error(&self) -> Option<String> {
        self.program.as_ref().err().cloned()
    }

    fn path(&self, netns: u64) -> PathBuf {
        self.dir.join(format!("{PREFIX}{netns}"))
    }
}
