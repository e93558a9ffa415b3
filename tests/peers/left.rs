//! Looks what is left of an agent in the kernel, and says it as JSON.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, anyhow};
use aya::programs::loaded_programs;
use serde_json::json;

/// What the names of all of the mesh's programs begin with.
const PREFIX: &str = "mesh_";

/// How long a program may take to go that nothing holds any more: the kernel waits until nobody runs it.
const GONE: Duration = Duration::from_secs(10);

/// Says what is pinned below a directory, and which programs of the mesh are loaded.
pub(crate) fn look(bpf_dir: &Path) -> Result<()> {
    let mut left = Err(anyhow!("nobody looked"));
    let gone = harness::wait_for("nothing to be left", GONE, || {
        left = found(bpf_dir);
        left.as_ref().is_ok_and(Vec::is_empty)
    });
    let left = left?;
    // What is left after that time is the answer.
    debug_assert_eq!(gone.is_ok(), left.is_empty());
    println!("{}", json!({"left": left}));
    Ok(())
}

fn found(bpf_dir: &Path) -> Result<Vec<String>> {
    let mut left = Vec::new();
    pins(bpf_dir, &mut left);
    for program in loaded_programs() {
        let program = program?;
        if let Some(name) = program
            .name_as_str()
            .filter(|name| name.starts_with(PREFIX))
        {
            left.push(format!("program {name} ({})", program.id()));
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
