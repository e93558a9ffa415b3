//! Names of cgroups in every shape, and a recorded node.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::*;
use crate::locate::fake::{Fake, NODE};

const UID: &str = "76f93a50-40e2-4370-b024-2658f7c85e67";
const ID: &str = "dd55c9bd83f2a6634aea5bb09e626f7c0029ffdd33a76ee504bc5b6010b05b3f";

fn underscored() -> String {
    UID.replace('-', "_")
}

#[test]
fn pods_are_named_after_their_uids() {
    let slices = [
        format!("kubepods-pod{}.slice", underscored()),
        format!("kubepods-burstable-pod{}.slice", underscored()),
        format!("kubelet-kubepods-besteffort-pod{}.slice", underscored()),
        format!("pod{UID}"),
    ];
    for name in slices {
        assert_eq!(uid(&name).as_deref(), Some(UID), "{name}");
    }
    // A static pod's is a hash.
    let hash = "0123456789abcdef0123456789abcdef";
    assert_eq!(uid(&format!("pod{hash}")).as_deref(), Some(hash));
    for name in [
        "kubepods",
        "burstable",
        "kubepods-burstable.slice",
        "kubepods.slice",
        "system.slice",
        "pod",
        "pod../x",
        ID,
    ] {
        assert_eq!(uid(name), None, "{name}");
    }
}

#[test]
fn levels_above_pods_are_known_in_both_drivers() {
    for name in ["kubepods", "kubepods.slice", "kubelet-kubepods.slice"] {
        assert!(is_root(name), "{name}");
    }
    for name in [
        "kubepods-burstable.slice",
        "mykubepods",
        "burstable",
        "pods",
    ] {
        assert!(!is_root(name), "{name}");
    }
    for name in [
        "burstable",
        "besteffort",
        "kubepods-burstable.slice",
        "a-kubepods-besteffort.slice",
    ] {
        assert!(is_quality(name), "{name}");
    }
    for name in ["guaranteed", "kubepods.slice", "system.slice", "burst"] {
        assert!(!is_quality(name), "{name}");
    }
}

#[test]
fn containers_are_known_by_every_runtimes_names() {
    for name in [
        ID.to_owned(),
        format!("cri-containerd-{ID}.scope"),
        format!("crio-{ID}.scope"),
        format!("docker-{ID}.scope"),
        format!("crio-{ID}"),
    ] {
        assert_eq!(container(&name), Some(ID), "{name}");
    }
    for name in ["init.scope", "x", "cri-containerd-abc.scope", &ID[1..]] {
        assert_eq!(container(name), None, "{name}");
    }
}

/// Shapes of a pod's cgroup and of a container's in it.
fn shapes() -> Vec<(&'static str, String, String)> {
    let slice = underscored();
    vec![
        (
            "/cgroup",
            format!("kubepods/burstable/pod{UID}"),
            ID.to_owned(),
        ),
        ("/cgroup", format!("kubepods/pod{UID}"), ID.to_owned()),
        (
            "/cgroup",
            format!("node/kubepods/besteffort/pod{UID}"),
            ID.to_owned(),
        ),
        (
            "/v1/pids",
            format!("kubepods/burstable/pod{UID}"),
            ID.to_owned(),
        ),
        ("/v1/cpu", format!("kubepods/pod{UID}"), ID.to_owned()),
        (
            "/cgroup",
            format!("kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{slice}.slice"),
            format!("cri-containerd-{ID}.scope"),
        ),
        (
            "/cgroup",
            format!("kubepods.slice/kubepods-pod{slice}.slice"),
            format!("crio-{ID}.scope"),
        ),
        (
            "/v1/pids",
            format!(
                "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{slice}.slice"
            ),
            format!("docker-{ID}.scope"),
        ),
        (
            "/cgroup",
            format!(
                "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod{slice}.slice"
            ),
            format!("cri-containerd-{ID}.scope"),
        ),
    ]
}

fn list(fake: &Fake) -> Pods {
    Kubepods::default().list(fake, |pods| !pods.contains_key(UID))
}

#[test]
fn a_pod_is_found_in_every_shape() {
    for (mount, pod, container) in shapes() {
        let fake = Fake::new();
        for other in ["system.slice/sshd.service", "user.slice", "init.scope"] {
            fake.cgroup(&format!("{mount}/{other}"), &[1]);
        }
        fake.namespace(7, &[]);
        fake.start(50, 7);
        let dir = format!("{mount}/{pod}");
        fake.cgroup(&format!("{dir}/{container}"), &[50]);
        let pods = list(&fake);
        assert_eq!(pods.get(UID), Some(&vec![dir.clone().into()]), "{dir}");
        let lead = lead(&fake, &pods[UID]).unwrap();
        assert_eq!((lead.process.unwrap().pid, lead.netns.inode), (50, 7));
        let containers = vec![ID.to_owned()];
        assert_eq!(lead.by, By::Uid { containers });
    }
}

#[test]
fn the_processes_may_be_in_the_tree_of_v1_alone() {
    let fake = Fake::new();
    let (v2, v1) = (
        format!("/cgroup/kubepods/pod{UID}"),
        format!("/v1/pids/kubepods/pod{UID}"),
    );
    fake.cgroup(&v2, &[]);
    fake.cgroup(&format!("{v1}/{ID}"), &[50]);
    fake.namespace(7, &[]);
    fake.start(50, 7);
    let pods = list(&fake);
    assert_eq!(pods[UID], [Path::new(&v2), Path::new(&v1)]);
    assert_eq!(lead(&fake, &pods[UID]).unwrap().netns.inode, 7);
}

#[test]
fn the_oldest_process_outside_of_the_nodes_network_leads() {
    let fake = Fake::new();
    let dir = format!("/cgroup/kubepods/pod{UID}");
    let why = |fake: &Fake| lead(fake, &[dir.clone().into()]).unwrap_err();
    assert_eq!(why(&fake), format!("its cgroup `{dir}` is gone"));
    fake.cgroup(&dir, &[]);
    let empty = format!("its cgroup `{dir}` has no processes: nothing of it runs yet, or any more");
    assert_eq!(why(&fake), empty);
    // A monitor of CRI-O comes first, and is in the node's own network.
    fake.start(40, NODE);
    fake.cgroup(&format!("{dir}/crio-conmon-{ID}.scope"), &[40]);
    let node =
        format!("all processes of its cgroup `{dir}` are in the node's own network namespace");
    assert_eq!(why(&fake), node);
    fake.namespace(7, &[]);
    fake.namespace(8, &[]);
    // The sandbox; then a container, and what it started in a namespace of its own. Numbers of processes begin anew at some point.
    fake.start(90, 7);
    fake.start(50, 7);
    fake.start(51, 8);
    fake.cgroup(&format!("{dir}/{ID}"), &[51, 50]);
    fake.cgroup(&format!("{dir}/{ID}/docker/x"), &[90]);
    let lead = lead(&fake, &[dir.into()]).unwrap();
    assert_eq!((lead.process.unwrap().pid, lead.netns.inode), (90, 7));
}

#[test]
fn kubepods_is_searched_for_only_while_a_pod_is_missing_and_not_all_the_time() {
    let fake = Fake::new();
    let mut kubepods = Kubepods::default();
    for other in 0..50 {
        fake.cgroup(&format!("/cgroup/system.slice/s{other}.service"), &[]);
    }
    let mut reads = |missing: bool| {
        let before = fake.reads();
        let pods = kubepods.list(&fake, |_| missing);
        (fake.reads() - before, pods.len())
    };
    assert!(reads(true).0 > 50);
    fake.cgroup(&format!("/cgroup/kubepods/burstable/pod{UID}"), &[]);
    fake.cgroup("/cgroup/kubepods/besteffort/podb", &[]);
    // The fake's clock stands still, so the next search is due.
    assert_eq!(reads(true).1, 2);
    // `kubepods` and two levels below it.
    assert_eq!(reads(false), (3, 2));
}

#[test]
fn a_recorded_node_has_its_pods() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/kubernetes/node-view");
    let read = |name: &str| fs::read_to_string(dir.join(name)).unwrap();
    let (cgroups, processes) = (read("cgroups"), read("processes"));
    let fake = Fake::new();
    let mut expected = BTreeMap::<&str, u64>::new();
    let mut pids = BTreeMap::<&str, u32>::new();
    for line in processes.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let (pid, netns) = (fields[2].parse().unwrap(), fields[3].parse().unwrap());
        let netns = if netns == 4_026_532_317 { NODE } else { netns };
        if netns != NODE {
            fake.namespace(netns, &[]);
        }
        fake.start(pid, netns);
        pids.insert(fields[1], pid);
        expected.insert(fields[0], netns);
    }
    for path in cgroups.lines() {
        let id = path.rsplit('/').next().unwrap();
        let pid: Vec<u32> = pids.get(id).copied().into_iter().collect();
        fake.cgroup(&format!("/cgroup{path}"), &pid);
    }
    let pods = Kubepods::default().list(&fake, |_| true);
    assert_eq!(pods.len(), 11);
    for (uid, netns) in expected {
        let found = lead(&fake, &pods[uid]).map(|lead| lead.netns.inode);
        match netns {
            NODE => assert!(found.unwrap_err().contains("the node's own"), "{uid}"),
            netns => assert_eq!(found, Ok(netns), "{uid}"),
        }
    }
    assert_eq!(namespaces(&fake, &pods).len(), 4);
}
