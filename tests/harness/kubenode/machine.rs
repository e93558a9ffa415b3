//! The node itself: containerd, in namespaces of its own for mounts and cgroups, on the network of a [`Node`].
//!
//! Its tree of cgroups begins where the node's does, its bpf file system is its own, and so are `/run` and `/var/lib`: what a pod mounts of the
//! host is this node's, and all of it goes when the last process has ended.

use std::fmt::Write as _;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::{POD_NETWORK, cri::Cri};
use crate::mounts::{self, Tree};
use crate::process::Running;
use crate::wait::{PATIENCE, wait_for_some};
use crate::{Node, cgroup, command, netns};

/// Where distributions put CNI's plug-ins.
const PLUGINS: [&str; 3] = ["/usr/lib/cni", "/usr/libexec/cni", "/opt/cni/bin"];

/// The namespace of containerd that Kubernetes has.
const NAMESPACE: &str = "k8s.io";

/// A node's containerd. Dropping it kills it; what it started goes with the node.
#[derive(Debug)]
pub(super) struct Machine {
    node: Node,
    trees: Vec<Tree>,
    containerd: Running,
}

impl Machine {
    /// Starts containerd on a node, and waits until it answers.
    pub(super) fn start(node: &Node, sandbox_image: &str) -> Result<Self> {
        let files = node.files();
        fs::create_dir_all(files.join("cni"))?;
        fs::write(files.join("cni/10-net.conflist"), network(files))?;
        fs::write(files.join("containerd.toml"), config(files, sandbox_image))?;
        let trees = mounts::cgroups()?;
        let inside = files.join("enter.sh");
        fs::write(&inside, script(&trees, files)?)?;
        fs::set_permissions(&inside, fs::Permissions::from_mode(0o755))?;
        let mut cgroups = Vec::new();
        for tree in &trees {
            let own = root(node, tree)?;
            make(&own)?;
            cgroups.push(own);
        }
        let cgroups: Vec<&Path> = cgroups.iter().map(PathBuf::as_path).collect();
        let mut unshare = crate::pod::wrap(&cgroups, &node.netns(), "unshare".as_ref());
        unshare.args(["--mount", "--cgroup", "--propagation", "private", "--"]);
        let containerd = node.start("containerd", unshare.arg(inside))?;
        Ok(Self {
            node: node.clone(),
            trees,
            containerd,
        })
    }

    /// Returns a way to speak to it, once it answers and has read its network.
    pub(super) fn cri(&mut self) -> Result<Cri> {
        let cri = Cri::new(&self.node.files().join("containerd.sock"))?;
        let what = "containerd to be ready";
        let ready = wait_for_some(what, PATIENCE, || match self.containerd.ended() {
            Ok(None) => cri.is_ready().is_ok_and(|it| it).then_some(Ok(())),
            Ok(Some(_)) | Err(_) => Some(Err(anyhow::anyhow!("containerd ended"))),
        });
        ready
            .and_then(|it| it)
            .with_context(|| self.containerd.log())?;
        Ok(cri)
    }

    /// Returns a command that runs on this node as root.
    pub(super) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        let target = format!("--target={}", self.containerd.pid());
        command.args([&target, "--mount", "--net", "--", program]);
        command
    }

    /// Returns `ctr`, for what Kubernetes has.
    pub(super) fn ctr(&self) -> Command {
        let mut command = self.command("ctr");
        command
            .arg("--address")
            .arg(self.node.files().join("containerd.sock"));
        command.args(["--namespace", NAMESPACE]);
        command
    }

    /// Makes the cgroups of a pod, as kubelet's driver `cgroupfs` does.
    pub(super) fn make_cgroup(&self, pod: &str) -> Result<()> {
        for tree in &self.trees {
            let mut path = root(&self.node, tree)?;
            for part in pod.trim_matches('/').split('/') {
                path.push(part);
                make(&path)?;
            }
        }
        Ok(())
    }

    /// Removes the cgroups of a pod.
    pub(super) fn remove_cgroup(&self, pod: &str) -> Result<()> {
        for tree in &self.trees {
            cgroup::remove(&root(&self.node, tree)?.join(pod.trim_matches('/')))?;
        }
        Ok(())
    }
}

/// Returns the node's own cgroup in a tree.
fn root(node: &Node, tree: &Tree) -> Result<PathBuf> {
    match tree.options.is_empty() {
        true => node.cgroup(),
        false => Ok(tree.mount.join(node.scope().id())),
    }
}

/// Makes a cgroup in one that is there: what was removed with its node stays so. One for `cpuset` has no processor of its own at first.
fn make(path: &Path) -> Result<()> {
    match fs::create_dir(path) {
        // Pods begin side by side.
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            let what = format!("failed to make cgroup `{}`", path.display());
            return Err(error).context(what);
        }
        Ok(()) | Err(_) => {}
    }
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let own = path.join(file);
        if fs::read_to_string(&own).is_ok_and(|text| text.trim().is_empty()) {
            let above = path.parent().context("a cgroup without parent")?;
            // Of cgroup2 it is not there, and nothing is to be done.
            let text = fs::read_to_string(above.join(file)).unwrap_or_default();
            if !text.trim().is_empty() {
                fs::write(&own, text)?;
            }
        }
    }
    Ok(())
}

/// Returns the program that makes the node's file systems and becomes containerd.
fn script(trees: &[Tree], files: &Path) -> Result<String> {
    let files = files.display();
    let mut text = String::from("#!/bin/sh\nset -e\n");
    // Other parts of `/run` are other nodes'.
    writeln!(
        text,
        "mkdir {files}/run\nmount -t tmpfs -o mode=755 tmpfs {files}/run\nmkdir -p {files}/run{}\n\
         mount --bind {files} {files}/run{}\nmount --rbind {files}/run /run\n\
         mount -t tmpfs -o mode=755 tmpfs /var/lib\nmount -t bpf -o mode=700 bpf /sys/fs/bpf\numount -R -l /sys/fs/cgroup",
        below_run(&files.to_string()),
        below_run(&files.to_string()),
    )?;
    if trees
        .iter()
        .all(|tree| tree.mount != Path::new("/sys/fs/cgroup"))
    {
        writeln!(text, "mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup")?;
    }
    for tree in trees {
        let at = tree.mount.display();
        let (sort, options) = match tree.options.as_str() {
            "" => ("cgroup2", "rw"),
            options => ("cgroup", options),
        };
        // Beside the pods, as the node's own services are.
        writeln!(
            text,
            "mkdir -p {at}\nmount -t {sort} -o {options} {sort} {at}\nmkdir -p {at}/system"
        )?;
        if options == "cpuset" {
            writeln!(
                text,
                "for f in cpus mems; do cat {at}/cpuset.$f > {at}/system/cpuset.$f; done"
            )?;
        }
        writeln!(text, "echo $$ > {at}/system/cgroup.procs")?;
    }
    writeln!(text, "exec containerd --config {files}/containerd.toml")?;
    Ok(text)
}

fn below_run(path: &str) -> &str {
    path.strip_prefix("/run").unwrap_or(path)
}

fn config(files: &Path, sandbox_image: &str) -> String {
    let files = files.display();
    let plugins = PLUGINS.iter().find(|it| Path::new(it).is_dir());
    let plugins = plugins.unwrap_or(&PLUGINS[0]);
    // Root of a machine that is itself somebody's container may not guard processes from the end of memory.
    format!(
        "version = 2\nroot = \"{files}/root\"\nstate = \"{files}/state\"\n[grpc]\naddress = \"{files}/containerd.sock\"\n\
         [plugins.\"io.containerd.internal.v1.opt\"]\npath = \"{files}/opt\"\n\
         [plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = \"{sandbox_image}\"\nstream_server_address = \"127.0.0.1\"\n\
         restrict_oom_score_adj = true\n\
         [plugins.\"io.containerd.grpc.v1.cri\".cni]\nbin_dir = \"{plugins}\"\nconf_dir = \"{files}/cni\"\n"
    )
}

/// A bridge, as most small clusters have it.
fn network(files: &Path) -> String {
    serde_json::json!({"cniVersion": "1.0.0", "name": "pods", "plugins": [
        {"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
            "ipam": {"type": "host-local", "dataDir": files.join("ipam"),
                "ranges": [[{"subnet": POD_NETWORK}]], "routes": [{"dst": "0.0.0.0/0"}]}}]})
    .to_string()
}

/// Runs `nft` on a node, with these lines.
pub(super) fn nft(node: &Node, lines: &str) -> Result<()> {
    let file = node.files().join("rules.nft");
    fs::write(&file, lines)?;
    let mut nft = Command::new("nsenter");
    nft.arg(format!("--net={}", netns::path(&node.netns()).display()));
    command::output_of(nft.args(["--", "nft", "--file"]).arg(file)).map(drop)
}
