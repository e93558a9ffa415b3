//! The crates that the image's program is made of, as cargo knows them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde::Deserialize;

use crate::process::cargo;

/// What is shipped: the agent, and the kernel object that its build script embeds.
const ROOTS: [&str; 2] = ["mesh-agent", "mesh-ebpf"];

/// What `cargo metadata` says, as far as it is read.
#[derive(Debug, Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

/// A crate.
#[derive(Debug, Deserialize)]
pub(super) struct Package {
    id: String,
    pub(super) name: String,
    pub(super) version: String,
    /// In SPDX's words.
    pub(super) license: Option<String>,
    /// Where it is from; `None` for one of this repository.
    pub(super) source: Option<String>,
    manifest_path: PathBuf,
}

#[derive(Debug, Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Debug, Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Debug, Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<DependencyKind>,
}

#[derive(Debug, Deserialize)]
struct DependencyKind {
    /// `None`: neither for tests nor for building.
    kind: Option<String>,
}

/// The crates that are shipped, with what each needs.
#[derive(Debug)]
pub(super) struct Crates {
    /// In the order of their names.
    packages: Vec<Package>,
    needs: BTreeMap<String, Vec<String>>,
}

impl Crates {
    /// Asks cargo.
    ///
    /// # Errors
    ///
    /// When cargo fails, or says what nobody expects.
    pub(super) fn of(target: &str) -> anyhow::Result<Self> {
        let mut command = cargo("metadata");
        command.args([
            "--format-version=1",
            "--locked",
            "--filter-platform",
            target,
        ]);
        let output = command
            .output()
            .context("failed to start `cargo metadata`")?;
        if !output.status.success() {
            bail!(
                "`cargo metadata` failed: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Self::read(&output.stdout)
    }

    fn read(text: &[u8]) -> anyhow::Result<Self> {
        let Metadata { packages, resolve } =
            serde_json::from_slice(text).context("`cargo metadata` is not understood")?;
        let needs = resolve.nodes.into_iter().map(|node| {
            let is_shipped = |it: &&Dependency| it.dep_kinds.iter().any(|it| it.kind.is_none());
            let needs = node.deps.iter().filter(is_shipped);
            let needs: BTreeSet<String> = needs.map(|it| it.pkg.clone()).collect();
            (node.id, needs.into_iter().collect::<Vec<_>>())
        });
        let mut needs: BTreeMap<String, Vec<String>> = needs.collect();
        let is_root = |it: &&Package| it.source.is_none() && ROOTS.contains(&it.name.as_str());
        let mut next: Vec<String> = packages
            .iter()
            .filter(is_root)
            .map(|it| it.id.clone())
            .collect();
        if next.len() != ROOTS.len() {
            bail!("cargo knows {next:?}, where {ROOTS:?} are shipped");
        }
        let mut shipped = BTreeSet::new();
        while let Some(id) = next.pop() {
            if shipped.insert(id.clone()) {
                next.extend(needs.get(&id).into_iter().flatten().cloned());
            }
        }
        needs.retain(|id, _| shipped.contains(id));
        let mut packages: Vec<Package> = packages
            .into_iter()
            .filter(|it| shipped.contains(&it.id))
            .collect();
        packages
            .sort_by(|one, other| (&one.name, &one.version).cmp(&(&other.name, &other.version)));
        Ok(Self { packages, needs })
    }

    /// Returns them in the order of their names.
    pub(super) fn shipped(&self) -> impl Iterator<Item = &Package> {
        self.packages.iter()
    }

    /// Returns what one needs.
    pub(super) fn needs(&self, package: &Package) -> impl Iterator<Item = &Package> {
        let needs = self.needs.get(&package.id).into_iter().flatten();
        needs.filter_map(|id| self.packages.iter().find(|it| it.id == *id))
    }

    /// Returns the version of the agent.
    ///
    /// # Errors
    ///
    /// When the agent is not among them.
    pub(super) fn version(&self) -> anyhow::Result<String> {
        let agent = self.packages.iter().find(|it| it.name == ROOTS[0]);
        Ok(agent.context("no agent is shipped")?.version.clone())
    }
}

impl Package {
    /// Returns the folder of its sources.
    pub(super) fn folder(&self) -> &Path {
        self.manifest_path.parent().unwrap_or(Path::new("/"))
    }

    /// Returns its name for lists of packages (package-url).
    pub(super) fn purl(&self) -> String {
        format!(
            "pkg:cargo/{}@{}",
            self.name,
            self.version.replace('+', "%2B")
        )
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_tests_and_builds_need_is_not_shipped() {
        let package = |name: &str, source: Option<&str>| {
            json!({"id": name, "name": name, "version": "1.0.0", "license": "MIT", "source": source,
                "manifest_path": format!("/src/{name}/Cargo.toml")})
        };
        let registry = Some("registry");
        let node = |id: &str, deps: &[(&str, &[Option<&str>])]| {
            let deps = deps.iter().map(|(pkg, kinds)| {
                let kinds = kinds.iter().map(|kind| json!({"kind": kind}));
                json!({"pkg": pkg, "dep_kinds": kinds.collect::<Vec<_>>()})
            });
            json!({"id": id, "deps": deps.collect::<Vec<_>>()})
        };
        let text = json!({
            "packages": [package("z", registry), package("mesh-agent", None), package("mesh-ebpf", None),
                package("tested", registry), package("built", registry), package("both", registry)],
            "resolve": {"nodes": [
                node("mesh-agent", &[("z", &[None]), ("tested", &[Some("dev")]), ("built", &[Some("build")]),
                    ("both", &[Some("dev"), None])]),
                node("mesh-ebpf", &[]), node("z", &[]), node("both", &[]), node("tested", &[]), node("built", &[])]},
        });
        let crates = Crates::read(text.to_string().as_bytes()).unwrap();
        let names: Vec<&str> = crates.shipped().map(|it| it.name.as_str()).collect();
        assert_eq!(names, ["both", "mesh-agent", "mesh-ebpf", "z"]);
        let agent = crates.shipped().nth(1).unwrap();
        let needs: Vec<String> = crates.needs(agent).map(Package::purl).collect();
        assert_eq!(needs, ["pkg:cargo/both@1.0.0", "pkg:cargo/z@1.0.0"]);
        assert_eq!(crates.version().unwrap(), "1.0.0");
    }
}
