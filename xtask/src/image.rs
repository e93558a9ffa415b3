//! `cargo xtask image`: the agent as a container image, made without an engine or a registry.
//!
//! From nothing: the static program, two users, licences and a list of what it is made of. One archive holds it in both
//! forms that engines read, the OCI layout and that of `docker save`. The same program gives the same bytes: files are in order
//! and bear no time, and the image is dated by the commit.

mod archive;
mod crates;
mod layer;
mod licences;
mod peer;
mod sbom;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};

use crate::process::{cargo, first_line, root, run, target_dir};
use archive::Image;
use crates::Crates;
use layer::Layer;

/// What the manifests in `deploy/kubernetes` ask for; the tag is the version.
const NAME: &str = "underpass.dev/node-agent";

/// Bytes that an image for use may have in an archive: what every node of a cluster loads.
const MOST_BYTES: usize = 25_000_000;

/// The user that the image runs as where nothing else is said, as in many images without root.
const NOBODY: u32 = 65532;

/// Arguments of `image`.
#[derive(Debug, Args)]
pub(crate) struct ImageArgs {
    /// How the program is built: `release` is for use, `dev` for tests
    #[arg(long, value_enum, default_value_t)]
    profile: Profile,
    /// Where to write it [default: image/PROFILE.tar in cargo's target folder]
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Instead of the agent, the program that asks and answers in tests of a cluster
    #[arg(long)]
    test_peer: bool,
}

/// Which image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// The agent.
    Agent,
    /// The program that asks and answers in tests of a cluster.
    TestPeer,
}

/// One of cargo's profiles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Profile {
    #[default]
    Release,
    Dev,
}

impl Profile {
    fn name(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Dev => "dev",
        }
    }

    /// The folder that cargo builds into.
    fn folder(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Dev => "debug",
        }
    }
}

/// Builds the image that was asked for, and says what became of it.
///
/// # Errors
///
/// When something cannot be built or written, or an image for use is too large.
pub(crate) fn image(args: &ImageArgs) -> anyhow::Result<()> {
    let file = args.file.as_deref();
    match args.test_peer {
        true => peer::build(args.profile, file).map(drop),
        false => build(args.profile, file).map(drop),
    }
}

/// Builds an image for use, and returns its archive.
///
/// # Errors
///
/// As [`image`].
pub(crate) fn release(what: What) -> anyhow::Result<PathBuf> {
    match what {
        What::Agent => build(Profile::Release, None),
        What::TestPeer => peer::build(Profile::Release, None),
    }
}

/// Builds the images that tests take apart, or run.
///
/// # Errors
///
/// As [`image`].
pub(crate) fn for_tests() -> anyhow::Result<()> {
    build(Profile::Dev, None)?;
    peer::build(Profile::Dev, None).map(drop)
}

fn build(profile: Profile, file: Option<&Path>) -> anyhow::Result<PathBuf> {
    let program = program(profile, "mesh-agent", "node-agent")?;
    let crates = Crates::of(&target())?;
    let version = crates.version()?;
    let bill = sbom::of(&crates)?;
    let licences = licences::of(&crates)?;

    let mut layer = Layer::new();
    layer.file("etc/group", accounts("x:").as_bytes(), 0o644)?;
    layer.file("etc/passwd", users().as_bytes(), 0o644)?;
    layer.file("usr/bin/node-agent", &program, 0o755)?;
    let place = "usr/share/doc/underpass";
    layer.file(&format!("{place}/sbom.cdx.json"), bill.as_bytes(), 0o644)?;
    for (name, text) in &licences {
        layer.file(&format!("{place}/{name}"), text.as_bytes(), 0o644)?;
    }
    // Where volumes go. A runtime would make them too, as whoever it is.
    for folder in [
        "dev",
        "proc",
        "run/underpass",
        "sys",
        "tmp",
        "var/lib/underpass",
    ] {
        layer.folder(folder)?;
    }
    let layer = layer.pack(profile == Profile::Release)?;
    let image = Image {
        name: NAME,
        version: &version,
        program: "/usr/bin/node-agent",
        words: &[],
        description: "The node agent of the Underpass service mesh, and its controller",
        created: &created()?,
        revision: &revision(),
        user: NOBODY,
        layer: &layer,
    };
    let archive = image.archive()?;

    let file = written(&archive, file, profile.name())?;
    println!("{}", file.display());
    println!("  image        {NAME}:{version}, {}", archive::platform());
    println!(
        "  size         {} to load, {} unpacked",
        megabytes(archive.len()),
        megabytes(layer.unpacked.len())
    );
    println!("  program      {}, static", megabytes(program.len()));
    println!(
        "  made of      {} crates, {} texts of licences",
        crates.shipped().count(),
        licences.len()
    );
    if profile == Profile::Release && archive.len() > MOST_BYTES {
        bail!("the image has more than {}", megabytes(MOST_BYTES));
    }
    Ok(file)
}

/// Writes an archive, by default under this name in cargo's target folder; returns where it is.
fn written(archive: &[u8], file: Option<&Path>, name: &str) -> anyhow::Result<PathBuf> {
    let default = target_dir()?.join("image").join(format!("{name}.tar"));
    let file = file.unwrap_or(&default);
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)
            .with_context(|| format!("failed to make `{}`", folder.display()))?;
    }
    fs::write(file, archive).with_context(|| format!("failed to write `{}`", file.display()))?;
    Ok(file.to_owned())
}

/// The target that is linked without a libc of the system: musl's licence asks for no more than its notice, and its resolver
/// needs no files that an image from nothing lacks.
pub(crate) fn target() -> String {
    format!("{}-unknown-linux-musl", std::env::consts::ARCH)
}

/// Builds a program without the system's libc, and returns it.
fn program(profile: Profile, package: &str, name: &str) -> anyhow::Result<Vec<u8>> {
    let target = target();
    let mut build = cargo("build");
    build.args(["--locked", "--package", package, "--bin", name]);
    build.args(["--profile", profile.name(), "--target", &target]);
    // An image for tests is read and unpacked, not debugged.
    build.env("CARGO_PROFILE_DEV_DEBUG", "0");
    run(&mut build)?;
    let program = target_dir()?.join(target).join(profile.folder()).join(name);
    fs::read(&program).with_context(|| format!("no program at `{}`", program.display()))
}

/// Returns `/etc/passwd`: who is who where the image runs.
fn users() -> String {
    format!(
        "root:x:0:0:root:/:/nonexistent\nunderpass:x:{NOBODY}:{NOBODY}:underpass:/:/nonexistent\n"
    )
}

/// Returns `/etc/group`.
fn accounts(password: &str) -> String {
    format!("root:{password}0:\nunderpass:{password}{NOBODY}:\n")
}

/// Returns the time of the commit: that of the build would make every image another.
fn created() -> anyhow::Result<String> {
    let seconds = match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(seconds) => seconds,
        Err(_) => git(&["log", "-1", "--format=%ct"]).unwrap_or_else(|| "0".to_owned()),
    };
    let date = format!("--date=@{seconds}");
    let time = first_line("date", &["--utc", &date, "+%Y-%m-%dT%H:%M:%SZ"]);
    time.with_context(|| format!("`{seconds}` is no time"))
}

/// Returns the commit; of sources that are none, nothing.
fn revision() -> String {
    git(&["rev-parse", "HEAD"]).unwrap_or_default()
}

fn git(args: &[&str]) -> Option<String> {
    let mut command = Command::new("git");
    let output = command.args(args).current_dir(root()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

/// Returns a size for people.
fn megabytes(bytes: usize) -> String {
    let tenths = bytes / 100_000;
    format!("{}.{} MB", tenths / 10, tenths % 10)
}
