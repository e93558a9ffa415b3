//! What counts after a sequence of changes, and that changes are noticed.
#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;

use super::ManifestSource;
use super::loader::Loader;
use crate::model::snapshot::Snapshot;
use crate::model::workload::Acceleration;

/// Longer than any change takes, also on a busy machine.
const DEADLINE: Duration = Duration::from_secs(20);

fn pod(name: &str, address: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop}}\nstatus: {{podIP: {address}}}\n"
    )
}

/// The workloads of a snapshot in short: `a=10.0.0.1 b=10.0.0.2`.
fn short(snapshot: &Snapshot) -> String {
    let words = snapshot.workloads.iter().map(|workload| {
        let addresses: Vec<String> = workload.addresses.iter().map(ToString::to_string).collect();
        format!("{}={}", workload.name.name, addresses.join(","))
    });
    words.collect::<Vec<_>>().join(" ")
}

struct Dir {
    dir: TempDir,
    loader: Loader,
}

impl Dir {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let loader = Loader::new(dir.path().to_owned(), Acceleration::Auto, Arc::default());
        Self { dir, loader }
    }

    fn write(&self, file: &str, text: &str) {
        fs::write(self.dir.path().join(file), text).unwrap();
    }

    fn remove(&self, file: &str) {
        fs::remove_file(self.dir.path().join(file)).unwrap();
    }

    /// Reads the directory and returns its workloads in short and the number of errors.
    fn load(&mut self) -> (String, usize) {
        self.loader.load();
        let snapshot = self.loader.loaded().snapshot;
        (short(&snapshot), snapshot.errors.len())
    }

    fn assert_error(&self, part: &str) {
        let errors = self.loader.loaded().snapshot.errors.join("\n");
        assert!(errors.contains(part), "no {part:?} in {errors}");
    }
}

#[test]
fn the_generation_counts_changes_only() {
    let mut dir = Dir::new();
    dir.write("a.yaml", &pod("a", "10.0.0.1"));
    assert!(dir.loader.load());
    assert!(!dir.loader.load());
    dir.write("b.txt", &pod("b", "10.0.0.2"));
    dir.write(".b.yaml", &pod("b", "10.0.0.2"));
    assert!(!dir.loader.load());
    assert_eq!(dir.loader.loaded().snapshot.generation, 1);
    dir.write("b.yaml", &pod("b", "10.0.0.2"));
    assert!(dir.loader.load());
    assert_eq!(dir.loader.loaded().snapshot.generation, 2);
    assert_eq!(dir.load(), ("a=10.0.0.1 b=10.0.0.2".into(), 0));
}

#[test]
fn an_object_that_becomes_invalid_keeps_its_last_valid_version() {
    let mut dir = Dir::new();
    let b = pod("b", "10.0.0.2");
    dir.write("a.yaml", &(pod("a", "10.0.0.1") + &b));
    dir.load();
    dir.write("a.yaml", &(pod("a", "10.0.0.999") + &b));
    assert_eq!(dir.load(), ("a=10.0.0.1 b=10.0.0.2".into(), 1));
    dir.assert_error("its last valid version stays in force");
    dir.write("a.yaml", &b);
    assert_eq!(dir.load(), ("b=10.0.0.2".into(), 0));
}

#[test]
fn an_object_that_is_invalid_from_the_start_is_left_out() {
    let mut dir = Dir::new();
    dir.write("a.yaml", &(pod("a", "nowhere") + &pod("b", "10.0.0.2")));
    assert_eq!(dir.load(), ("b=10.0.0.2".into(), 1));
}

#[test]
fn a_file_that_cannot_be_read_keeps_what_it_held() {
    let mut dir = Dir::new();
    dir.write("a.yaml", &pod("a", "10.0.0.1"));
    dir.write("b.yaml", &pod("b", "10.0.0.2"));
    let both = "a=10.0.0.1 b=10.0.0.2".to_owned();
    assert_eq!(dir.load(), (both.clone(), 0));
    fs::write(dir.dir.path().join("a.yaml"), b"\xff\xfe").unwrap();
    assert_eq!(dir.load(), (both.clone(), 1));
    dir.assert_error("what the file held before stays in force");
    dir.write("a.yaml", "kind: [unclosed\n");
    assert_eq!(dir.load(), (both.clone(), 1));
    dir.write("a.yaml", &" ".repeat(crate::config::limits::FILE_BYTES + 1));
    assert_eq!(dir.load(), (both.clone(), 1));
    dir.remove("a.yaml");
    symlink("nowhere", dir.dir.path().join("a.yaml")).unwrap();
    assert_eq!(dir.load(), (both, 1));
    dir.remove("a.yaml");
    assert_eq!(dir.load(), ("b=10.0.0.2".into(), 0));
}

#[test]
fn a_broken_document_keeps_only_what_may_be_in_it() {
    let mut dir = Dir::new();
    dir.write("a.yaml", &(pod("a", "10.0.0.1") + &pod("b", "10.0.0.2")));
    dir.load();
    // Nobody can tell that the broken document is not `b`.
    dir.write("a.yaml", &(pod("a", "10.0.0.3") + "---\n{\n"));
    assert_eq!(dir.load(), ("a=10.0.0.3 b=10.0.0.2".into(), 1));
    // `b` is elsewhere now, so it is known.
    dir.write("b.yaml", &pod("b", "10.0.0.4"));
    assert_eq!(dir.load(), ("a=10.0.0.3 b=10.0.0.4".into(), 1));
}

#[test]
fn a_fifo_is_an_error_and_does_not_block() {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    let mut dir = Dir::new();
    let path = dir.dir.path().join("a.yaml");
    mknodat(CWD, &path, FileType::Fifo, Mode::RUSR, 0).unwrap();
    assert_eq!(dir.load(), (String::new(), 1));
    dir.assert_error("a.yaml: is a FIFO");
}

#[test]
fn a_directory_that_vanishes_takes_nothing_with_it() {
    let mut dir = Dir::new();
    dir.write("a.yaml", &pod("a", "10.0.0.1"));
    dir.load();
    let path = dir.dir.path().to_owned();
    fs::remove_dir_all(&path).unwrap();
    assert_eq!(dir.load(), ("a=10.0.0.1".into(), 1));
    dir.assert_error("all objects stay in force");
    fs::create_dir(&path).unwrap();
    assert_eq!(dir.load(), (String::new(), 0));
}

#[test]
fn who_has_an_address_keeps_it() {
    let mut dir = Dir::new();
    dir.write("b.yaml", &pod("b", "10.0.0.1"));
    dir.load();
    dir.write("a.yaml", &pod("a", "10.0.0.1"));
    assert_eq!(dir.load(), ("b=10.0.0.1".into(), 1));
    dir.assert_error("is the address of Pod shop/b in b.yaml");
    // `b` wants what `c` has, `a` what `b` has: `b` falls back, so `a` stays out.
    dir.write("c.yaml", &pod("c", "10.0.0.3"));
    dir.load();
    dir.write("b.yaml", &pod("b", "10.0.0.3"));
    assert_eq!(dir.load(), ("b=10.0.0.1 c=10.0.0.3".into(), 2));
    dir.remove("c.yaml");
    assert_eq!(dir.load(), ("a=10.0.0.1 b=10.0.0.3".into(), 0));
}

#[test]
fn addresses_may_be_swapped_in_one_go() {
    let mut dir = Dir::new();
    dir.write("a.yaml", &(pod("a", "10.0.0.1") + &pod("b", "10.0.0.2")));
    dir.load();
    dir.write("a.yaml", &(pod("a", "10.0.0.2") + &pod("b", "10.0.0.1")));
    assert_eq!(dir.load(), ("a=10.0.0.2 b=10.0.0.1".into(), 0));
}

#[test]
fn who_has_a_name_keeps_it() {
    let mut dir = Dir::new();
    dir.write("b.yaml", &pod("web", "10.0.0.2"));
    dir.load();
    dir.write("a.yaml", &pod("web", "10.0.0.1"));
    assert_eq!(dir.load(), ("web=10.0.0.2".into(), 1));
    dir.remove("b.yaml");
    assert_eq!(dir.load(), ("web=10.0.0.1".into(), 0));
}

#[test]
fn a_pod_that_ended_is_gone_without_a_word() {
    let mut dir = Dir::new();
    dir.write("a.yaml", &pod("a", "10.0.0.1"));
    dir.load();
    let ended = pod("a", "10.0.0.1").replace("{podIP", "{phase: Succeeded, podIP");
    dir.write("a.yaml", &(ended + &pod("b", "10.0.0.1")));
    assert_eq!(dir.load(), ("b=10.0.0.1".into(), 0));
    assert!(dir.loader.loaded().problems.is_empty());
}

#[test]
fn a_namespace_changes_its_pods() {
    let mut dir = Dir::new();
    let namespace = |word: &str| {
        format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: shop, labels: {{underpass.dev/acceleration: {word}}}}}\n"
        )
    };
    dir.write("a.yaml", &pod("a", "10.0.0.1"));
    dir.write("n.yaml", &namespace("off"));
    let mode = |dir: &mut Dir| {
        dir.loader.load();
        dir.loader.loaded().snapshot.workloads[0].acceleration
    };
    assert_eq!(mode(&mut dir), Acceleration::Off);
    dir.write("n.yaml", &namespace("fast"));
    assert_eq!(mode(&mut dir), Acceleration::Off);
    dir.remove("n.yaml");
    assert_eq!(mode(&mut dir), Acceleration::Auto);
}

/// The agent spawns what waits for snapshots.
fn assert_send(_: &impl Send) {}

async fn wait_for(source: &mut ManifestSource, expected: &str) {
    let arrives = async {
        let mut now = source.snapshot();
        while short(&now) != expected {
            now = source.next().await;
        }
    };
    let result = tokio::time::timeout(DEADLINE, arrives).await;
    assert!(result.is_ok(), "no {expected:?}: {:?}", source.snapshot());
}

#[tokio::test]
async fn edits_are_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.yaml");
    let mut source = ManifestSource::start(dir.path(), Acceleration::Auto).unwrap();
    assert_eq!(source.snapshot().generation, 1);
    assert_send(&source.next());
    fs::write(&path, pod("a", "10.0.0.1")).unwrap();
    wait_for(&mut source, "a=10.0.0.1").await;
    fs::write(dir.path().join("new"), pod("a", "10.0.0.2")).unwrap();
    fs::rename(dir.path().join("new"), &path).unwrap();
    wait_for(&mut source, "a=10.0.0.2").await;
    fs::remove_file(&path).unwrap();
    wait_for(&mut source, "").await;
}

/// Puts a new version into a ConfigMap volume as kubelet does: a directory, and an atomic change of `..data`.
fn swap(volume: &Path, version: &str, text: &str) {
    let dir = volume.join(version);
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("pods.yaml"), text).unwrap();
    symlink(version, volume.join("..data_tmp")).unwrap();
    fs::rename(volume.join("..data_tmp"), volume.join("..data")).unwrap();
}

#[tokio::test]
async fn the_swap_of_a_config_map_volume_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    swap(dir.path(), "..1", &pod("a", "10.0.0.1"));
    symlink("..data/pods.yaml", dir.path().join("pods.yaml")).unwrap();
    let mut source = ManifestSource::start(dir.path(), Acceleration::Auto).unwrap();
    assert_eq!(short(&source.snapshot()), "a=10.0.0.1");
    swap(dir.path(), "..2", &pod("a", "10.0.0.2"));
    wait_for(&mut source, "a=10.0.0.2").await;
}

#[tokio::test]
async fn a_directory_that_comes_back_is_noticed() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("manifests");
    let mut source = ManifestSource::start(&dir, Acceleration::Auto).unwrap();
    assert_eq!(source.snapshot().errors.len(), 1);
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("a.yaml"), pod("a", "10.0.0.1")).unwrap();
    wait_for(&mut source, "a=10.0.0.1").await;
    fs::remove_dir_all(&dir).unwrap();
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("b.yaml"), pod("b", "10.0.0.2")).unwrap();
    wait_for(&mut source, "b=10.0.0.2").await;
    // The new directory is watched too, and what lies behind a link is found by looking.
    fs::write(parent.path().join("c"), pod("c", "10.0.0.3")).unwrap();
    symlink("../c", dir.join("c.yaml")).unwrap();
    wait_for(&mut source, "b=10.0.0.2 c=10.0.0.3").await;
    fs::write(parent.path().join("c"), pod("c", "10.0.0.4")).unwrap();
    wait_for(&mut source, "b=10.0.0.2 c=10.0.0.4").await;
}

#[tokio::test]
async fn dropping_the_source_ends_its_thread() {
    let dir = tempfile::tempdir().unwrap();
    let source = ManifestSource::start(dir.path(), Acceleration::Auto).unwrap();
    let mut loaded = source.subscribe();
    drop(source);
    let ended = async { while loaded.changed().await.is_ok() {} };
    assert!(tokio::time::timeout(DEADLINE, ended).await.is_ok());
}
