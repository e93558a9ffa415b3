//! Looks what an agent has in the kernel, and what is left of it later; says it as JSON.
//!
//! A kernel may be that of several nodes, where nodes are containers. An agent's programs are told by its maps, which it pins.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use aya::maps::{MapInfo, loaded_maps};
use aya::programs::loaded_programs;
use serde_json::json;

/// What the names of all of the mesh's programs begin with.
const PREFIX: &str = "mesh_";

/// How long a program may take to go that nothing holds any more: the kernel waits until nobody runs it.
const GONE: Duration = Duration::from_secs(10);

/// Says the numbers of the maps that are pinned below a directory.
pub(crate) fn tell_maps(bpf_dir: &Path) -> Result<()> {
    let mut maps = Vec::new();
    for version in fs::read_dir(bpf_dir).into_iter().flatten() {
        for pin in fs::read_dir(version?.path().join("maps"))
            .into_iter()
            .flatten()
        {
            let path = pin?.path();
            let info = MapInfo::from_pin(&path);
            maps.push(info.with_context(|| path.display().to_string())?.id());
        }
    }
    println!("{}", json!({"maps": maps}));
    Ok(())
}

/// Says what is pinned below a directory, and which maps of these, and programs with them, are loaded. Without maps it is every program of
/// a mesh.
pub(crate) fn look(bpf_dir: &Path, maps: &[u32]) -> Result<()> {
    let maps: BTreeSet<u32> = maps.iter().copied().collect();
    let mut left = Err(anyhow!("nobody looked"));
    let gone = harness::wait_for("nothing to be left", GONE, || {
        left = found(bpf_dir, &maps);
        left.as_ref().is_ok_and(Vec::is_empty)
    });
    let left = left?;
    // What is left after that time is the answer.
    debug_assert_eq!(gone.is_ok(), left.is_empty());
    println!("{}", json!({"left": left}));
    Ok(())
}

fn found(bpf_dir: &Path, maps: &BTreeSet<u32>) -> Result<Vec<String>> {
    let mut left = Vec::new();
    pins(bpf_dir, &mut left);
    for program in loaded_programs() {
        // One that went in between is one that is gone.
        let Ok(program) = program else { continue };
        let Some(name) = program.name_as_str().filter(|it| it.starts_with(PREFIX)) else {
            continue;
        };
        let used = program.map_ids().ok().flatten().unwrap_or_default();
        if maps.is_empty() || used.iter().any(|map| maps.contains(map)) {
            left.push(format!("program {name} ({})", program.id()));
        }
    }
    for map in loaded_maps().filter_map(Result::ok) {
        if maps.contains(&map.id()) {
            let name = map.name_as_str().unwrap_or_default();
            left.push(format!("map {name} ({})", map.id()));
        }
    }
    Ok(left)
}

fn pins(directory: &Path, left: &mut Vec<String>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        match path.is_dir() {
            true => pins(&path, left),
            false => left.push(format!("pin {}", path.display())),
        }
    }
}
