//! Which process the agent is, as kernel programs number processes: in the machine's first PID namespace.

use std::path::Path;

/// What `/proc/PID/ns/pid` of a process in the first PID namespace points to (`PROC_PID_INIT_INO`, include/linux/proc_ns.h).
const FIRST: &str = "pid:[4026531836]";

/// Returns the agent's number, or `None` where the agent is in another PID namespace and sees no other's `/proc`.
pub(super) fn tgid() -> Option<u32> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    // Of process 1 it is the namespace that `/proc` is mounted for.
    let first = ["/proc/self/ns/pid", "/proc/1/ns/pid"]
        .iter()
        .any(|path| std::fs::read_link(path).is_ok_and(|target| target == Path::new(FIRST)));
    if first { outermost(&status) } else { None }
}

/// Returns the process's number in the outermost namespace that `/proc/self/status` shows.
fn outermost(status: &str) -> Option<u32> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("NSpid:"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outermost_number_comes_first() {
        assert_eq!(outermost("Name:\tx\nNSpid:\t4711\t12\t1\n"), Some(4711));
        assert_eq!(outermost("NSpid:\t4711\n"), Some(4711));
        assert_eq!(outermost("Name:\tx\n"), None);
    }
}
