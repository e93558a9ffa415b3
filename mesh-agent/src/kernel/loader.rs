//! Loads the kernel object: its maps pinned under one directory or taken over from there, its programs verified.
//!
//! Nothing is attached here. A program that the kernel does not take is left out with the reason; the caller says what is
//! lost by it.

use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use aya::programs::{
    BtfTracePoint, CgroupSock, CgroupSockAddr, CgroupSockopt, Iter, Program, ProgramError,
    SkLookup, SkMsg, SockOps, TracePoint,
};
use aya::{Btf, Ebpf, EbpfError, EbpfLoader, VerifierLogLevel};

use crate::kernel::offsets::{self, OffsetError};
use crate::kernel::sys::{self, MapLayout};

pub(super) static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/mesh-ebpf"));

/// Every map that outlives the agent.
pub const PINNED_MAPS: &[&str] = &[
    "CONTROL",
    "WORKLOADS",
    "ADDRESSES",
    "ADMISSIONS",
    "SOCK_STATES",
    "SOCKETS",
    "FLOWS",
    "CELLS",
    "FREE_CELLS",
    "PAIRS",
    "HISTORIES",
    "STATS",
    "RECORDS",
    "WAKES",
    "WAKER",
    "FRONTENDS",
    "SERVICES",
    "BACKENDS",
    "CHUNKS",
    "AFFINITIES",
    "CAPTURES",
    "CAPTURED",
    "HANDOVERS",
    "BRIEFS",
    "BRIEF_DIALS",
    "NODE_ADDRESSES",
    "LISTENERS",
    "LISTENING",
    "DIALS",
    "DATAGRAM_DIALS",
    "PREFIXES",
    "VERDICTS",
    "RANGES",
    "RULE_HITS",
    "HOST_ADDRESSES",
    "DENIALS",
    // Of aya-log: what runs may be of an earlier load, and writes to that load's.
    "AYA_LOGS",
];

/// Why the kernel object could not be loaded at all.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The kernel's structures are not as the programs need them.
    #[error("failed to find the kernel's field offsets")]
    Offsets(#[from] OffsetError),
    /// The kernel's type information could not be read.
    #[error("failed to read the kernel's type information")]
    Btf(#[source] aya::BtfError),
    /// A pinned map is not what this agent would make.
    #[error(
        "the map pinned at `{}` is not this agent's ({why}); `node-agent uninstall --bpf-dir DIR` removes all that is pinned in DIR",
        path.display()
    )]
    Foreign {
        /// Where it is pinned.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The maps could not be made, or pinned ones do not fit.
    #[error("failed to create the maps, pinned in `{directory}`")]
    Maps {
        /// Directory in the bpf file system.
        directory: String,
        /// What aya said.
        source: Box<EbpfError>,
    },
}

/// The loaded object, and the programs that this kernel did not take.
pub struct Loaded {
    /// The object.
    pub ebpf: Ebpf,
    /// Names of programs that failed, each with the error chain (and the verifier's log).
    pub failed: Vec<(String, String)>,
}

impl std::fmt::Debug for Loaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loaded")
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}

/// Loads the object with its maps pinned in `map_dir`, taking over those that are there.
///
/// # Errors
///
/// Without BTF or bpf file system, and where pinned maps have another layout.
pub fn load(map_dir: &Path) -> Result<Loaded, LoadError> {
    let offsets = offsets::from_kernel()?;
    let btf = Btf::from_sys_fs().map_err(LoadError::Btf)?;
    let mut loader = EbpfLoader::new();
    loader
        .btf(Some(&btf))
        .verifier_log_level(VerifierLogLevel::STATS);
    for (name, offset) in &offsets {
        loader.override_global(name, offset, true);
    }
    for name in PINNED_MAPS {
        loader.map_pin_path(name, map_dir.join(name));
    }
    check_pinned(map_dir)?;
    let directory = map_dir.display().to_string();
    let mut ebpf = loader.load(OBJECT).map_err(|source| LoadError::Maps {
        directory,
        source: Box::new(source),
    })?;
    let mut failed = Vec::new();
    for (name, program) in ebpf.programs_mut() {
        if let Err(error) = load_program(program, name, &btf) {
            failed.push((name.to_owned(), crate::chain::chain(&error)));
        }
    }
    Ok(Loaded { ebpf, failed })
}

/// Makes sure that what is pinned has the layout of the object's maps: aya takes over whatever is there.
fn check_pinned(map_dir: &Path) -> Result<(), LoadError> {
    let object = aya_obj::Object::parse(OBJECT).map_err(|error| LoadError::Maps {
        directory: map_dir.display().to_string(),
        source: Box::new(EbpfError::ParseError(error)),
    })?;
    for name in PINNED_MAPS {
        let path = map_dir.join(name);
        let foreign = |why: String| LoadError::Foreign {
            path: path.clone(),
            why,
        };
        let found = match sys::open_pinned(&path) {
            Ok(pinned) => sys::map_layout(pinned.as_fd()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => Err(error),
        };
        let found = found.map_err(|error| foreign(error.to_string()))?;
        if let Some(map) = object.maps.get(*name)
            && let wanted = layout(map)
            && !found.serves_as(&wanted)
        {
            return Err(foreign(format!("{found:?} instead of {wanted:?}")));
        }
    }
    Ok(())
}

fn layout(map: &aya_obj::Map) -> MapLayout {
    MapLayout {
        kind: map.map_type(),
        key_size: map.key_size(),
        value_size: map.value_size(),
        max_entries: map.max_entries(),
    }
}

fn load_program(program: &mut Program, name: &str, btf: &Btf) -> Result<(), ProgramError> {
    if let Ok(program) = <&mut SockOps>::try_from(&mut *program) {
        return program.load();
    }
    if let Ok(program) = <&mut SkMsg>::try_from(&mut *program) {
        return program.load();
    }
    if let Ok(program) = <&mut CgroupSock>::try_from(&mut *program) {
        return program.load();
    }
    if let Ok(program) = <&mut CgroupSockAddr>::try_from(&mut *program) {
        return program.load();
    }
    if let Ok(program) = <&mut SkLookup>::try_from(&mut *program) {
        return program.load();
    }
    if let Ok(program) = <&mut CgroupSockopt>::try_from(&mut *program) {
        return program.load();
    }
    if let Ok(program) = <&mut TracePoint>::try_from(&mut *program) {
        return program.load();
    }
    if let Ok(program) = <&mut Iter>::try_from(&mut *program) {
        let kind = match name {
            "mesh_listeners" | "mesh_wakes" => "tcp",
            _ => "bpf_sk_storage_map",
        };
        return program.load(kind, btf);
    }
    let tracepoint = if name == "mesh_recv" {
        "sock_recv_length"
    } else {
        "sock_send_length"
    };
    <&mut BtfTracePoint>::try_from(program)?.load(tracepoint, btf)
}
