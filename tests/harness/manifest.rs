//! Manifests as users write them.

use std::fmt::Write as _;
use std::fs;

use anyhow::{Context, Result};

use crate::pod::Pod;

/// How a pod asks for acceleration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Acceleration {
    /// Says nothing: the agent's default holds.
    Default,
    /// Never.
    Off,
    /// Never, but observed.
    Observe,
    /// After observation.
    Auto,
    /// Always.
    On,
}

impl Acceleration {
    fn word(self) -> Option<&'static str> {
        match self {
            Self::Default => None,
            Self::Off => Some("off"),
            Self::Observe => Some("observe"),
            Self::Auto => Some("auto"),
            Self::On => Some("on"),
        }
    }
}

/// Returns the manifest of `pod`.
pub fn pod(pod: &Pod, acceleration: Acceleration) -> String {
    let mut text = format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  namespace: default\n  labels: {{app: {name}}}\n  \
         annotations:\n    underpass.dev/netns: {}\n",
        pod.netns_path().display(),
        name = pod.name()
    );
    let mut line = |line: std::fmt::Arguments<'_>| {
        writeln!(text, "{line}")
            .unwrap_or_else(|_| unreachable!("writing to a String cannot fail"));
    };
    if let Some(word) = acceleration.word() {
        line(format_args!("    underpass.dev/acceleration: \"{word}\""));
    }
    line(format_args!("status:\n  podIP: {}\n  podIPs:", pod.v4()));
    for address in pod.addresses() {
        line(format_args!("    - ip: \"{address}\""));
    }
    text
}

/// Writes the manifest of `pod` to where its node's agent reads, at one stroke.
///
/// # Errors
/// When the file cannot be written.
pub fn write(pod: &Pod, acceleration: Acceleration) -> Result<()> {
    let path = pod.node().manifests().join(format!("{}.yaml", pod.name()));
    let draft = pod.node().files().join(format!("{}.draft", pod.name()));
    fs::write(&draft, self::pod(pod, acceleration))
        .with_context(|| format!("failed to write `{}`", draft.display()))?;
    fs::rename(&draft, &path).with_context(|| format!("failed to write `{}`", path.display()))
}
