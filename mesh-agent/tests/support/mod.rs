//! Network namespaces for tests that need root and `ip`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Returns whether this process is root; fails in CI if it is not.
pub(crate) fn is_root(test: &str) -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        assert!(std::env::var_os("CI").is_none(), "{test} needs root");
        eprintln!("SKIPPED: {test} needs root");
    }
    is_root
}

/// Removes namespaces of tests whose process was killed.
pub(crate) fn remove_leftovers() {
    for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().into_string().unwrap();
        let pid = name
            .strip_prefix("uptest-")
            .and_then(|rest| rest.split('-').next());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            try_ip(&["netns", "del", &name]);
        }
    }
}

pub(crate) fn try_ip(args: &[&str]) -> bool {
    Command::new("ip")
        .args(args)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap()
        .success()
}

pub(crate) fn ip(args: &[&str]) {
    assert!(try_ip(args), "ip {args:?} failed");
}

/// A network namespace that is removed when the test ends, however it ends.
#[derive(Debug)]
pub(crate) struct Netns(pub(crate) String);

impl Netns {
    pub(crate) fn new(name: &str) -> Self {
        let netns = Self(format!("uptest-{}-{name}", std::process::id()));
        ip(&["netns", "add", &netns.0]);
        netns
    }

    pub(crate) fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.0)
    }

    pub(crate) fn address(&self, address: &str) {
        ip(&["-n", &self.0, "addr", "add", address, "dev", "lo"]);
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        try_ip(&["netns", "del", &self.0]);
    }
}
