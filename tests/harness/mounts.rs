//! Where file systems are mounted, from `/proc/self/mountinfo`: their usual places differ between machines.

use std::path::PathBuf;

use anyhow::{Context, Result};

/// Returns where a file system of `kind` is mounted whose super options contain `option` (any when it is empty).
pub(crate) fn find(kind: &str, option: &str) -> Result<Option<PathBuf>> {
    let text = std::fs::read_to_string("/proc/self/mountinfo")
        .context("failed to read `/proc/self/mountinfo`")?;
    Ok(find_in(&text, kind, option))
}

/// A tree of cgroups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tree {
    /// Where it is mounted.
    pub(crate) mount: PathBuf,
    /// What it is mounted with: controllers or a name. Empty of the cgroup2 tree.
    pub(crate) options: String,
}

/// Returns all trees of cgroups: one, or, beside each other, those of version 1 and maybe one of version 2.
pub(crate) fn cgroups() -> Result<Vec<Tree>> {
    let text = std::fs::read_to_string("/proc/self/mountinfo")
        .context("failed to read `/proc/self/mountinfo`")?;
    Ok(cgroups_in(&text))
}

fn cgroups_in(text: &str) -> Vec<Tree> {
    let trees = text.lines().filter_map(|line| {
        let (mount, system) = line.split_once(" - ")?;
        let mut system = system.split(' ');
        let options = match (system.next()?, system.nth(1)?) {
            ("cgroup2", _) => String::new(),
            ("cgroup", options) => {
                let words = options.split(',');
                // How it is mounted is not what it is.
                let words = words.filter(|word| !["rw", "ro", "xattr"].contains(word));
                words
                    .filter(|word| {
                        !word.contains("release_agent") && !word.contains("clone_children")
                    })
                    .collect::<Vec<_>>()
                    .join(",")
            }
            _ => return None,
        };
        let mount = mount.split(' ').nth(4).map(PathBuf::from)?;
        Some(Tree { mount, options })
    });
    trees.collect()
}

fn find_in(text: &str, kind: &str, option: &str) -> Option<PathBuf> {
    text.lines().find_map(|line| {
        let (mount, system) = line.split_once(" - ")?;
        let mut system = system.split(' ');
        let options = (system.next()? == kind).then(|| system.nth(1))??;
        let found = option.is_empty() || options.split(',').any(|word| word == option);
        found.then(|| mount.split(' ').nth(4).map(PathBuf::from))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "35 31 0:32 / /cg/memory rw,relatime - cgroup cgroup rw,memory\n\
        36 31 0:33 / /cg/pids rw,relatime shared:9 - cgroup cgroup rw,pids\n\
        41 31 0:38 / /cg/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate\n";

    #[test]
    fn trees_are_told_by_what_they_are() {
        let found = cgroups_in(HYBRID);
        let found: Vec<_> = found.iter().map(|it| it.options.as_str()).collect();
        assert_eq!(found, ["memory", "pids", ""]);
        let systemd =
            "33 31 0:30 / /cg/systemd rw - cgroup cgroup rw,xattr,release_agent=/x,name=systemd\n";
        assert_eq!(cgroups_in(systemd)[0].options, "name=systemd");
    }

    #[test]
    fn finds_by_kind_and_option() {
        assert_eq!(find_in(HYBRID, "cgroup2", ""), Some("/cg/unified".into()));
        assert_eq!(find_in(HYBRID, "cgroup", "pids"), Some("/cg/pids".into()));
        assert_eq!(find_in(HYBRID, "cgroup", "cpu"), None);
        assert_eq!(find_in(HYBRID, "bpf", ""), None);
    }
}
