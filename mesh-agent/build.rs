//! Builds the kernel object and leaves it at `OUT_DIR/mesh-ebpf` for the agent to embed.

use anyhow::{Context as _, anyhow};
use aya_build::{Package, build_ebpf};

#[path = "../xtask/src/toolchain.rs"]
mod toolchain;

/// What the object is built from, besides `mesh-ebpf` itself, which aya-build watches.
const INPUTS: [&str; 5] = [
    "build.rs",
    "../mesh-common",
    "../Cargo.toml",
    "../Cargo.lock",
    "../xtask/src/toolchain.rs",
];

fn main() -> anyhow::Result<()> {
    for input in INPUTS {
        println!("cargo:rerun-if-changed={input}");
    }
    let toolchain = toolchain::Toolchain::choose().ok_or_else(|| {
        anyhow!("no installed compiler can build the kernel object: run `cargo xtask setup`")
    })?;
    build_ebpf(
        [Package {
            name: "mesh-ebpf",
            root_dir: "../mesh-ebpf",
            ..Package::default()
        }],
        aya_build::Toolchain::Custom(toolchain.name()),
    )
    .context(
        "failed to build the kernel object: if the tools are at fault, run `cargo xtask setup`",
    )
}
