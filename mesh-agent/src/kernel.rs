//! The kernel side: loading and attaching programs, keeping maps in line with the snapshot, reading what was counted.
//!
//! The only module that imports aya.

mod loader;
mod offsets;
mod sys;

/// temp
pub fn try_load() {
    let dir = std::path::Path::new("/sys/fs/bpf/try");
    std::fs::create_dir_all(dir).unwrap();
    let loaded = loader::load(dir);
    match loaded {
        Ok(l) => {
            for (n, e) in &l.failed {
                println!("FAILED {n}: {e}\n\n");
            }
            println!("ok");
        }
        Err(e) => println!("ERR {}", crate::chain::chain(&e)),
    }
    std::fs::remove_dir_all(dir).unwrap();
}
