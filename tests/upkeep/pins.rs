//! What is pinned, and who may touch it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::manifest::Acceleration;
use harness::wait::PATIENCE;
use serde_json::Value;

use crate::told::{Told, agent, tell};
use crate::world::World;

/// Everything pinned under a directory: the kernel's own number of each map and link, and of each link's program.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Pins {
    pub(crate) maps: BTreeMap<PathBuf, u64>,
    pub(crate) links: BTreeMap<PathBuf, (u64, u64)>,
}

impl Pins {
    pub(crate) fn under(bpf_dir: &Path) -> Self {
        let mut pins = Self {
            maps: BTreeMap::new(),
            links: BTreeMap::new(),
        };
        let here = |part: &str| version_dir(bpf_dir).join(part);
        for path in files(&here("maps")) {
            let map = shown(&["map", "show", "pinned"], &path);
            pins.maps.insert(path, map["id"].as_u64().unwrap());
        }
        for path in files(&here("links")) {
            let link = shown(&["link", "show", "pinned"], &path);
            let ids = (
                link["id"].as_u64().unwrap(),
                link["prog_id"].as_u64().unwrap(),
            );
            pins.links.insert(path, ids);
        }
        pins
    }

    /// Returns whether the kernel knows any of these links.
    pub(crate) fn any_link_lives(&self) -> bool {
        self.links.values().any(|(id, _)| lives("link", *id))
    }

    /// Returns whether the kernel knows any of these programs or maps.
    pub(crate) fn anything_lives(&self) -> bool {
        self.any_link_lives()
            || self
                .links
                .values()
                .any(|(_, program)| lives("prog", *program))
            || self.maps.values().any(|id| lives("map", *id))
    }
}

/// Returns the directory of this ABI version's pins.
pub(crate) fn version_dir(bpf_dir: &Path) -> PathBuf {
    bpf_dir.join(format!("v{}", mesh_common::ABI_VERSION))
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

fn shown(what: &[&str], path: &Path) -> Value {
    bpftool(&[&["-j"], what, &[path.to_str().unwrap()]].concat()).json()
}

fn lives(kind: &str, id: u64) -> bool {
    tell(Command::new("bpftool").args([kind, "show", "id", &id.to_string()])).code == Some(0)
}

fn bpftool(arguments: &[&str]) -> Told {
    let told = tell(Command::new("bpftool").args(arguments));
    assert_eq!(told.code, Some(0), "{told:?}");
    told
}

fn make_map(path: &Path, kind: &str, sizes: [&str; 3], name: &str) {
    let [key, value, entries] = sizes;
    let path = path.to_str().unwrap();
    bpftool(&[
        "map", "create", path, "type", kind, "key", key, "value", value, "entries", entries,
        "name", name,
    ]);
}

#[test]
fn a_second_agent_is_refused_and_changes_nothing() {
    let Some(mut world) = World::new(Some(Acceleration::On)) else {
        return;
    };
    let first = world.agent();
    let dir = first.bpf_dir().to_owned();
    let before = (
        Pins::under(&dir),
        first.status().unwrap()["agent"]["pid"].clone(),
    );
    let (other_socket, other_dir) = (
        world.node.files().join("other.sock").display().to_string(),
        format!("{}-other", dir.display()),
    );
    let own_socket = first.socket().display().to_string();
    let no_metrics = ("--metrics-address", "off");
    let cases = [
        // The same in every respect; only its metrics would have found room.
        (vec![no_metrics], "another agent serves", &own_socket),
        // Would have its own place in the kernel, but not its own socket.
        (
            vec![no_metrics, ("--bpf-dir", &other_dir)],
            "another agent serves",
            &own_socket,
        ),
        (
            vec![no_metrics, ("--socket", &other_socket)],
            "an agent runs with",
            &dir.display().to_string(),
        ),
        (
            vec![("--socket", &other_socket), ("--bpf-dir", &other_dir)],
            "failed to listen for metrics",
            &"127.0.0.1:15020".to_owned(),
        ),
    ];
    for (other, why, what) in cases {
        let told = tell(&first.another(&other).unwrap());
        assert_eq!(told.code, Some(1), "{other:?}: {told:?}");
        assert!(
            told.err.contains(why) && told.err.contains(what),
            "{other:?}: {told:?}"
        );
        assert!(!Path::new(&other_dir).exists(), "{other:?}");
        assert!(!Path::new(&other_socket).exists(), "{other:?}");
        let now = (
            Pins::under(&dir),
            first.status().unwrap()["agent"]["pid"].clone(),
        );
        assert_eq!(now, before, "{other:?}");
    }
    // The lock goes with its owner, however that ends.
    world.agent_mut().kill9().unwrap();
    world.agent_mut().start_again().unwrap();
}

#[test]
fn an_older_version_is_taken_down_at_start() {
    let Some(mut world) = World::new(Some(Acceleration::On)) else {
        return;
    };
    let rounds = crate::rounds::Rounds::new(&world);
    let dir = world.agent().bpf_dir().to_owned();
    let old = Pins::under(&dir);
    world.agent_mut().stop().unwrap();
    // What an agent with another ABI would have left, with a flow that its programs redirect ...
    std::fs::rename(version_dir(&dir), dir.join("v0")).unwrap();
    // ... its settings in a layout that this agent does not know ...
    let rest = dir.join("v12345");
    std::fs::create_dir_all(rest.join("maps")).unwrap();
    make_map(
        &rest.join("maps/CONTROL"),
        "array",
        ["4", "4096", "1"],
        "CONTROL",
    );
    // ... and what is somebody else's.
    let theirs = [
        dir.join("theirs/maps/precious"),
        dir.join("v2-theirs/links/precious"),
    ];
    for path in &theirs {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        make_map(path, "hash", ["8", "8", "8"], "precious");
    }
    rounds.during(|| {
        rounds.wait_for_more(20);
        world.agent_mut().start_again().unwrap();
        rounds.wait_for_more(20);
    });
    assert!(!dir.join("v0").exists() && !rest.exists());
    harness::wait_for("the old links to go", PATIENCE, || !old.any_link_lives()).unwrap();
    rounds.finish();
    harness::wait_for("the old version to go", PATIENCE, || !old.anything_lives()).unwrap();

    world
        .agent()
        .wait_for_state(&["client", "server"], "accelerated", PATIENCE)
        .unwrap();
    let rounds = crate::rounds::Rounds::new(&world);
    rounds.once();
    let flow = world.flow(&rounds.client);
    assert_eq!(flow["path"], "redirect", "{flow:#}");
    rounds.finish();

    world.agent_mut().uninstall().unwrap();
    assert!(!version_dir(&dir).exists());
    for path in theirs {
        assert!(path.exists(), "{}", path.display());
        std::fs::remove_dir_all(path.parent().unwrap().parent().unwrap()).unwrap();
    }
}

#[test]
fn a_pinned_map_of_another_layout_is_named_and_left_alone() {
    let Some(mut world) = World::new(Some(Acceleration::On)) else {
        return;
    };
    let dir = world.agent().bpf_dir().to_owned();
    let maps = version_dir(&dir).join("maps");
    for (name, kind, sizes) in [
        ("PAIRS", "hash", ["16", "8", "8192"]),
        ("CONTROL", "array", ["4", "16", "2"]),
        ("STATS", "array", ["4", "8", "1"]),
    ] {
        let path = maps.join(name);
        world.agent_mut().stop().unwrap();
        std::fs::remove_file(&path).unwrap();
        make_map(&path, kind, sizes, name);
        let before = Pins::under(&dir);
        let error = format!("{:#}", world.agent_mut().start_again().unwrap_err());
        assert!(error.contains(path.to_str().unwrap()), "{error}");
        assert!(error.contains("node-agent uninstall"), "{error}");
        assert_eq!(Pins::under(&dir), before, "{name}");
        // What the message advises helps.
        let told = agent(&["uninstall", "--bpf-dir", dir.to_str().unwrap()]);
        assert_eq!(told.code, Some(0), "{told:?}");
        world.agent_mut().start_again().unwrap();
    }
}
