//! Where the cgroup2 file system is mounted.

#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// Returns the first place where a cgroup2 file system is mounted.
pub(super) fn mount() -> Option<PathBuf> {
    let mounts = std::fs::read("/proc/self/mountinfo").ok()?;
    find(&mounts)
}

/// Returns the first cgroup2 mount point of a `/proc/self/mountinfo` (proc_pid_mountinfo(5)).
fn find(mountinfo: &[u8]) -> Option<PathBuf> {
    mountinfo.split(|byte| *byte == b'\n').find_map(|line| {
        let mut fields = line.split(|byte| *byte == b' ');
        let point = fields.nth(4)?;
        // Optional fields end with a single hyphen; the type comes next.
        let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
        (kind == b"cgroup2").then(|| PathBuf::from(OsString::from_vec(unescape(point))))
    })
}

/// Replaces `\040` and the like, as the kernel writes blanks, by what they stand for.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        let octal = |digits: &[u8]| {
            let digits = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(digits, 8).ok()
        };
        match after.get(..3).filter(|_| byte == b'\\').and_then(octal) {
            Some(escaped) => {
                plain.push(escaped);
                rest = &after[3..];
            }
            None => {
                plain.push(byte);
                rest = after;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_is_found_among_others() {
        let hybrid = b"22 1 0:20 / /sys rw - sysfs sysfs rw\n\
            30 22 0:26 / /sys/fs/cgroup ro shared:4 - tmpfs tmpfs rw\n\
            31 30 0:27 / /sys/fs/cgroup/unified\\040two rw shared:5 master:1 - cgroup2 cgroup2 rw\n";
        assert_eq!(find(hybrid), Some("/sys/fs/cgroup/unified two".into()));
        assert_eq!(find(b"22 1 0:20 / /sys rw - sysfs sysfs rw\n"), None);
        assert_eq!(find(b"garbage\n\n- - -"), None);
    }
}
