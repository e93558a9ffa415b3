//! The image of the program that asks and answers in tests of a cluster. Nobody is to have it but who tests, so it holds nothing else.

use std::path::{Path, PathBuf};

use super::archive::{self, Image};
use super::crates::Crates;
use super::layer::Layer;
use super::{
    NOBODY, Profile, accounts, created, megabytes, program, revision, target, users, written,
};

/// What `tests/cluster` asks for; the tag is the version.
const NAME: &str = "underpass.dev/test-peer";

/// Builds it, and returns the archive.
pub(super) fn build(profile: Profile, file: Option<&Path>) -> anyhow::Result<PathBuf> {
    let program = program(profile, "mesh-tests", "peer")?;
    let version = Crates::of(&target())?.version()?;
    let mut layer = Layer::new();
    layer.file("etc/group", accounts("x:").as_bytes(), 0o644)?;
    layer.file("etc/passwd", users().as_bytes(), 0o644)?;
    layer.file("usr/bin/peer", &program, 0o755)?;
    for folder in ["dev", "proc", "sys", "tmp"] {
        layer.folder(folder)?;
    }
    let layer = layer.pack(profile == Profile::Release)?;
    let image = Image {
        name: NAME,
        version: &version,
        program: "/usr/bin/peer",
        // What holds a pod together where the same image is that of sandboxes.
        words: &["pause"],
        description: "Asks and answers in tests of a cluster with the Underpass service mesh",
        created: &created()?,
        revision: &revision(),
        user: NOBODY,
        layer: &layer,
    };
    let archive = image.archive()?;
    let file = written(&archive, file, &format!("test-peer-{}", profile.name()))?;
    println!("{}", file.display());
    println!("  image        {NAME}:{version}, {}", archive::platform());
    println!("  size         {} to load", megabytes(archive.len()));
    Ok(file)
}
