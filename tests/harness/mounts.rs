//! Where file systems are mounted, from `/proc/self/mountinfo`: their usual places differ between machines.

use std::path::PathBuf;

use anyhow::{Context, Result};

/// Returns where a file system of `kind` is mounted whose super options contain `option` (any when it is empty).
pub(crate) fn find(kind: &str, option: &str) -> Result<Option<PathBuf>> {
    let text = std::fs::read_to_string("/proc/self/mountinfo")
        .context("failed to read `/proc/self/mountinfo`")?;
    Ok(find_in(&text, kind, option))
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
    fn finds_by_kind_and_option() {
        assert_eq!(find_in(HYBRID, "cgroup2", ""), Some("/cg/unified".into()));
        assert_eq!(find_in(HYBRID, "cgroup", "pids"), Some("/cg/pids".into()));
        assert_eq!(find_in(HYBRID, "cgroup", "cpu"), None);
        assert_eq!(find_in(HYBRID, "bpf", ""), None);
    }
}
