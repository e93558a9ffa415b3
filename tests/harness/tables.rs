//! What the kernel balances by, read from an agent's pinned maps.

use std::fs;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use aya::maps::{Array, HashMap, Map, MapData};
use mesh_common::addr::{Addr, PortBe};
use mesh_common::limits;
use mesh_common::service::{BackendEntry, Frontend, ServiceEntry, TCP};

/// Flag of a map whose entries are allocated as they are used (linux/bpf.h).
const BPF_F_NO_PREALLOC: u32 = 1;

/// Types of maps (linux/bpf.h).
const HASH: u64 = 1;
const PERCPU_HASH: u64 = 5;

/// What the kernel takes for each bucket of a hash table.
const BUCKET_BYTES: u64 = 16;

/// The maps of services.
pub struct Tables {
    frontends: HashMap<MapData, [u8; size_of::<Frontend>()], u32>,
    services: Array<MapData, [u8; size_of::<ServiceEntry>()]>,
    backends: Array<MapData, [u8; size_of::<BackendEntry>()]>,
}

impl std::fmt::Debug for Tables {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tables").finish_non_exhaustive()
    }
}

impl Tables {
    /// Opens the maps that an agent pinned under `bpf_dir`.
    ///
    /// # Errors
    /// When they are not there, or are of another kind.
    pub fn open(bpf_dir: &Path) -> Result<Self> {
        let map = |name: &str| {
            let path = maps(bpf_dir).join(name);
            MapData::from_pin(&path).with_context(|| format!("failed to open `{}`", path.display()))
        };
        Ok(Self {
            frontends: HashMap::try_from(Map::HashMap(map("FRONTENDS")?))?,
            services: Array::try_from(Map::Array(map("SERVICES")?))?,
            backends: Array::try_from(Map::Array(map("BACKENDS")?))?,
        })
    }

    /// Returns the number of frontends.
    ///
    /// # Errors
    /// The kernel's.
    pub fn frontends(&self) -> Result<usize> {
        let mut count = 0;
        for key in self.frontends.keys() {
            key.context("failed to read the frontends")?;
            count += 1;
        }
        Ok(count)
    }

    /// Returns the number of the service port that is dialled at this address by TCP.
    ///
    /// # Errors
    /// When there is none.
    pub fn service(&self, address: Ipv4Addr, port: u16) -> Result<u32> {
        let frontend = Frontend {
            address: Addr::v4(address.octets()),
            port: PortBe::new(port),
            protocol: TCP,
            _pad: 0,
        };
        let number = self.frontends.get(&bytemuck::cast(frontend), 0);
        number.with_context(|| format!("no service at {address}:{port}"))
    }

    /// Returns the entry of a service port.
    ///
    /// # Errors
    /// The kernel's.
    pub fn entry(&self, number: u32) -> Result<ServiceEntry> {
        let bytes = self.services.get(&number, 0);
        Ok(bytemuck::pod_read_unaligned(
            &bytes.context("failed to read a service")?,
        ))
    }

    /// Returns every service port.
    ///
    /// # Errors
    /// The kernel's.
    pub fn entries(&self) -> Result<Vec<ServiceEntry>> {
        let numbers = 0..u32::try_from(limits::SERVICES)?;
        numbers.map(|number| self.entry(number)).collect()
    }

    /// Returns every endpoint's place, whether it is one or not.
    ///
    /// # Errors
    /// The kernel's.
    pub fn backends(&self) -> Result<Vec<BackendEntry>> {
        let numbers = 0..u32::try_from(limits::BACKENDS)?;
        let entry = |number| {
            let bytes = self.backends.get(&number, 0);
            let bytes = bytes.context("failed to read an endpoint")?;
            Ok(bytemuck::pod_read_unaligned(&bytes))
        };
        numbers.map(entry).collect()
    }
}

/// What a map takes of the kernel's memory.
#[derive(Clone, Debug)]
pub struct Taken {
    /// Its name.
    pub map: String,
    /// Bytes, as the kernel counts them.
    pub bytes: u64,
    /// Entries that it can hold.
    pub max_entries: u64,
    /// Whether its entries are allocated as they are used.
    pub grows: bool,
    /// Of the bytes those that a hash table takes for its buckets, used or not.
    pub bucket_bytes: u64,
}

/// Returns what each map of an agent takes.
///
/// # Errors
/// When a map cannot be opened.
pub fn taken(bpf_dir: &Path) -> Result<Vec<Taken>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(maps(bpf_dir)).context("failed to list the maps")? {
        let path = entry.context("failed to list the maps")?.path();
        let map = MapData::from_pin(&path)
            .with_context(|| format!("failed to open `{}`", path.display()))?;
        let info = format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd());
        let text = fs::read_to_string(&info).with_context(|| format!("failed to read `{info}`"))?;
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            let value = line.and_then(|value| value.trim().parse::<u64>().ok());
            value.with_context(|| format!("`{info}` has no `{name}`"))
        };
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        all.push(Taken {
            map: name.to_lowercase(),
            bytes: field("memlock:")?,
            max_entries: field("max_entries:")?,
            bucket_bytes: match field("map_type:")? {
                HASH | PERCPU_HASH => field("max_entries:")?.next_power_of_two() * BUCKET_BYTES,
                _ => 0,
            },
            grows: flags(&text) & BPF_F_NO_PREALLOC != 0,
        });
    }
    all.sort_unstable_by(|a, b| a.map.cmp(&b.map));
    Ok(all)
}

/// `map_flags`, which the kernel writes in hexadecimal.
fn flags(info: &str) -> u32 {
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix("map_flags:"));
    let digits = line.map(|value| value.trim().trim_start_matches("0x"));
    digits
        .and_then(|digits| u32::from_str_radix(digits, 16).ok())
        .unwrap_or(0)
}

fn maps(bpf_dir: &Path) -> PathBuf {
    bpf_dir
        .join(format!("v{}", mesh_common::ABI_VERSION))
        .join("maps")
}
