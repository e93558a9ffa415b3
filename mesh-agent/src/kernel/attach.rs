//! Attaches the programs by links that are pinned, so that they outlive the agent, and takes over links that are there.
//!
//! A link that runs the very same program is left alone. Another's program is replaced: in one step where the kernel can
//! (cgroup hooks), else the old link goes first, so that no call is ever counted twice.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya_obj::generated::bpf_attach_type;

use crate::kernel::sys;
use crate::model::observed::Hook;

/// A program and the hook it belongs to.
struct Plan {
    program: &'static str,
    kind: Kind,
    /// For `status`.
    hook: &'static str,
}

#[derive(Clone, Copy)]
enum Kind {
    Cgroup(bpf_attach_type),
    Tracing,
    SocketMap,
}

/// In the order of attachment: whoever counts comes before whoever makes something to count, and whoever translates back before
/// whoever translates.
const PLANS: &[Plan] = &[
    Plan {
        program: "mesh_recv",
        kind: Kind::Tracing,
        hook: "tp_btf sock_recv_length",
    },
    Plan {
        program: "mesh_send",
        kind: Kind::Tracing,
        hook: "tp_btf sock_send_length",
    },
    Plan {
        program: "mesh_redirect",
        kind: Kind::SocketMap,
        hook: "sk_msg SOCKETS",
    },
    Plan {
        program: "mesh_setsockopt",
        kind: Kind::Cgroup(bpf_attach_type::BPF_CGROUP_SETSOCKOPT),
        hook: "cgroup setsockopt",
    },
    Plan {
        program: "mesh_sock_release",
        kind: Kind::Cgroup(bpf_attach_type::BPF_CGROUP_INET_SOCK_RELEASE),
        hook: "cgroup sock_release",
    },
    Plan {
        program: "mesh_sock_ops",
        kind: Kind::Cgroup(bpf_attach_type::BPF_CGROUP_SOCK_OPS),
        hook: "cgroup sock_ops",
    },
    Plan {
        program: "mesh_getpeername4",
        kind: Kind::Cgroup(bpf_attach_type::BPF_CGROUP_INET4_GETPEERNAME),
        hook: "cgroup getpeername4",
    },
    Plan {
        program: "mesh_getpeername6",
        kind: Kind::Cgroup(bpf_attach_type::BPF_CGROUP_INET6_GETPEERNAME),
        hook: "cgroup getpeername6",
    },
    Plan {
        program: "mesh_getsockname4",
        kind: Kind::Cgroup(bpf_attach_type::BPF_CGROUP_INET4_GETSOCKNAME),
        hook: "cgroup getsockname4",
    },
    Plan {
        program: "mesh_getsockname6",
        kind: Kind::Cgroup(bpf_attach_type::BPF_CGROUP_INET6_GETSOCKNAME),
        hook: "cgroup getsockname6",
    },
    Plan {
        program: "mesh_recvmsg4",
        kind: Kind::Cgroup(bpf_attach_type::BPF_CGROUP_UDP4_RECVMSG),
        hook: "cgroup recvmsg4",
    },
    Plan {
        program: "mesh_recvmsg6",
        kind: Kind::Cgroup(bpf_attach_type::BPF_CGROUP_UDP6_RECVMSG),
        hook: "cgroup recvmsg6",
    },
    Plan {
        program: "mesh_sendmsg4",
        kind: Kind::Cgroup(bpf_attach_type::BPF_CGROUP_UDP4_SENDMSG),
        hook: "cgroup sendmsg4",
    },
    Plan {
        program: "mesh_sendmsg6",
        kind: Kind::Cgroup(bpf_attach_type::BPF_CGROUP_UDP6_SENDMSG),
        hook: "cgroup sendmsg6",
    },
    Plan {
        program: "mesh_connect4",
        kind: Kind::Cgroup(bpf_attach_type::BPF_CGROUP_INET4_CONNECT),
        hook: "cgroup connect4",
    },
    Plan {
        program: "mesh_connect6",
        kind: Kind::Cgroup(bpf_attach_type::BPF_CGROUP_INET6_CONNECT),
        hook: "cgroup connect6",
    },
    // Behind those that balance: programs of one hook run in the order of attachment.
    Plan {
        program: "mesh_judge4",
        kind: Kind::Cgroup(bpf_attach_type::BPF_CGROUP_INET4_CONNECT),
        hook: "cgroup connect4",
    },
    Plan {
        program: "mesh_judge6",
        kind: Kind::Cgroup(bpf_attach_type::BPF_CGROUP_INET6_CONNECT),
        hook: "cgroup connect6",
    },
    Plan {
        program: "mesh_judge_msg4",
        kind: Kind::Cgroup(bpf_attach_type::BPF_CGROUP_UDP4_SENDMSG),
        hook: "cgroup sendmsg4",
    },
    Plan {
        program: "mesh_judge_msg6",
        kind: Kind::Cgroup(bpf_attach_type::BPF_CGROUP_UDP6_SENDMSG),
        hook: "cgroup sendmsg6",
    },
];

/// Programs of one hook whose order matters: the one that balances, and the one that judges where the call then goes.
const BEHIND: [(&str, &str); 4] = [
    ("mesh_connect4", "mesh_judge4"),
    ("mesh_connect6", "mesh_judge6"),
    ("mesh_sendmsg4", "mesh_judge_msg4"),
    ("mesh_sendmsg6", "mesh_judge_msg6"),
];

/// Where links are pinned and programs attached.
#[derive(Debug)]
pub(crate) struct Attacher<'a> {
    /// Directory of pinned links in the bpf file system.
    pub(crate) link_dir: PathBuf,
    /// The cgroup whose processes (and those below it) the hooks see.
    pub(crate) cgroup: BorrowedFd<'a>,
    /// The socket map.
    pub(crate) sockets: BorrowedFd<'a>,
}

impl Attacher<'_> {
    /// Attaches every program that was loaded; returns how each stands, in the order of attachment.
    pub(crate) fn attach_all(&self, ebpf: &Ebpf, failed: &[(String, String)]) -> Vec<Hook> {
        let attach = |plan: &Plan| {
            let load_error = failed
                .iter()
                .find(|(name, _)| name == plan.program)
                .map(|(_, error)| error.clone());
            let error = load_error.or_else(|| {
                self.attach(ebpf, plan)
                    .err()
                    .map(|error| crate::chain::chain(&error))
            });
            Hook {
                program: plan.program.to_owned(),
                hook: plan.hook.to_owned(),
                attached: Some(error.is_none()),
                error,
            }
        };
        self.make_room();
        PLANS.iter().map(attach).collect()
    }

    /// Takes down programs that are to run behind one which is still to be attached: it would come behind them.
    fn make_room(&self) {
        for (first, behind) in BEHIND {
            if !self.link_dir.join(first).exists() {
                // Where that fails, so does attaching it.
                std::fs::remove_file(self.link_dir.join(behind)).ok();
            }
        }
    }

    fn attach(&self, ebpf: &Ebpf, plan: &Plan) -> io::Result<()> {
        let program = ebpf
            .program(plan.program)
            .ok_or_else(|| io::Error::other("not in the kernel object"))?;
        let program = program.fd().map_err(io::Error::other)?.as_fd();
        let path = self.link_dir.join(plan.program);
        if let Some(link) = pinned(&path)? {
            if sys::link_program_tag(link.as_fd())? == sys::program_tag(program)? {
                return Ok(());
            }
            if let Kind::Cgroup(_) = plan.kind {
                return sys::link_update(link.as_fd(), program);
            }
            std::fs::remove_file(&path)?;
            drop(link);
        }
        let link = match plan.kind {
            Kind::Cgroup(attach_type) => sys::link_create(program, self.cgroup, attach_type)?,
            Kind::Tracing => sys::tracing_attach(program)?,
            Kind::SocketMap => match self.attach_to_sockets(program)? {
                Some(link) => link,
                None => return Ok(()),
            },
        };
        sys::pin(link.as_fd(), &path)
    }

    /// By a link where the kernel has them (6.10, commit 699c23f02c65), else for the life of the map.
    fn attach_to_sockets(&self, program: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
        match sys::link_create(program, self.sockets, bpf_attach_type::BPF_SK_MSG_VERDICT) {
            Ok(link) => Ok(Some(link)),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                sys::prog_attach(program, self.sockets, bpf_attach_type::BPF_SK_MSG_VERDICT)?;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

fn pinned(path: &Path) -> io::Result<Option<OwnedFd>> {
    match sys::open_pinned(path) {
        Ok(link) => Ok(Some(link)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
