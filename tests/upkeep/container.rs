//! The agent in a container, as the DaemonSet in `deploy/kubernetes` describes it, without a container runtime.
//!
//! What a runtime makes of the manifest is made here of the same manifest: the image as a read-only root, its own mount and
//! cgroup namespaces, the host's network and processes, the volumes, and no capabilities but those that are named. Not made:
//! seccomp and AppArmor profiles, which are the runtime's: `tests/node` has one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::wait::PATIENCE;
use harness::{Node, Running, wait_for};
use serde_json::Value;

use crate::image;

/// Capabilities (capabilities(7)); all but those of the manifest are dropped.
const CAPABILITIES: [&str; 41] = [
    "audit_control",
    "audit_read",
    "audit_write",
    "block_suspend",
    "bpf",
    "checkpoint_restore",
    "chown",
    "dac_override",
    "dac_read_search",
    "fowner",
    "fsetid",
    "ipc_lock",
    "ipc_owner",
    "kill",
    "lease",
    "linux_immutable",
    "mac_admin",
    "mac_override",
    "mknod",
    "net_admin",
    "net_bind_service",
    "net_broadcast",
    "net_raw",
    "perfmon",
    "setfcap",
    "setgid",
    "setpcap",
    "setuid",
    "sys_admin",
    "sys_boot",
    "sys_chroot",
    "sys_module",
    "sys_nice",
    "sys_pacct",
    "sys_ptrace",
    "sys_rawio",
    "sys_resource",
    "sys_time",
    "sys_tty_config",
    "syslog",
    "wake_alarm",
];

/// Makes the container's file system and becomes what is in it: root, then three words for each volume, `--`, and what `capsh` takes.
const ENTER: &str = r#"
set -e
root=$0
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t tmpfs -o mode=755 dev "$root/dev"
for device in full null random urandom zero; do
    : > "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
while [ "$1" != -- ]; do
    mount --rbind "$1" "$root$2"
    [ "$3" != ro ] || mount -o remount,bind,ro "$root$2"
    shift 3
done
shift
mount -o remount,bind,ro "$root"
exec capsh "--chroot=$root" "$@"
"#;

/// Something that the manifest gives to the agent, by its name there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Given {
    Capability(String),
    /// A volume, by where it is mounted.
    Mount(String),
    HostNetwork,
    HostPid,
    /// `runAsUser: 0`.
    Root,
}

/// The pod of the DaemonSet.
pub(crate) fn pod() -> Value {
    let path = "../deploy/kubernetes/agent/daemonset.yaml";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    let object: Value = serde_saphyr::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    object["spec"]["template"]["spec"].clone()
}

/// Returns everything that the manifest gives to the agent.
pub(crate) fn given() -> Vec<Given> {
    let pod = pod();
    let container = &pod["containers"][0];
    let texts = |list: &Value, field: Option<&str>| -> Vec<String> {
        let items = list.as_array().unwrap().iter();
        let items = items.map(|it| field.map_or(it, |field| &it[field]));
        items.map(|it| it.as_str().unwrap().to_owned()).collect()
    };
    let capabilities = texts(&container["securityContext"]["capabilities"]["add"], None);
    let mounts = texts(&container["volumeMounts"], Some("mountPath"));
    let capabilities = capabilities.into_iter().map(Given::Capability);
    let flags = [
        ("/hostNetwork", Value::Bool(true), Given::HostNetwork),
        ("/hostPID", Value::Bool(true), Given::HostPid),
        (
            "/containers/0/securityContext/runAsUser",
            0.into(),
            Given::Root,
        ),
    ];
    let flags = flags
        .into_iter()
        .filter(|(path, value, _)| pod.pointer(path) == Some(value));
    capabilities
        .chain(mounts.into_iter().map(Given::Mount))
        .chain(flags.map(|(.., given)| given))
        .collect()
}

/// An agent in a container. Dropping it kills it and takes its programs out of the kernel.
#[derive(Debug)]
pub(crate) struct Container {
    node: Node,
    root: PathBuf,
    running: Option<Running>,
}

impl Container {
    /// Prepares a container of the image that was unpacked at `root`, which nobody writes to.
    pub(crate) fn new(node: &Node, root: &Path) -> Self {
        for volume in ["run", "state"] {
            fs::create_dir_all(node.files().join(volume)).unwrap();
        }
        Self {
            node: node.clone(),
            root: root.to_owned(),
            running: None,
        }
    }

    /// Starts the agent with everything that the manifest gives but `without`; returns once it is ready, or has ended.
    pub(crate) fn start(&mut self, without: Option<&Given>) {
        let mut command = self.command(without);
        let running = self.node.start("container", &mut command).unwrap();
        let running = self.running.insert(running);
        let socket = self.node.files().join("run/agent.sock");
        wait_for("the agent to be ready, or to end", PATIENCE, || {
            matches!(running.ended(), Ok(Some(_)) | Err(_)) || is_ready(&socket)
        })
        .unwrap_or_else(|error| panic!("{error:#}:\n{}", running.log()));
    }

    /// Returns what the agent wrote, once it has ended; `None` while it runs.
    pub(crate) fn ended(&mut self) -> Option<String> {
        let running = self.running.as_mut().unwrap();
        running.ended().unwrap().map(|_| running.log())
    }

    /// Ends the agent as kubelet does.
    pub(crate) fn stop(&mut self) {
        if let Some(mut running) = self.running.take() {
            running.signal(rustix::process::Signal::TERM).unwrap();
            running.wait(PATIENCE).unwrap();
        }
    }

    /// Returns a question to the agent, asked on the node itself.
    pub(crate) fn question(&self, words: &[&str]) -> Command {
        question(&self.node.files().join("run/agent.sock"), words)
    }

    /// Returns the answer to a question as JSON.
    pub(crate) fn json(&self, words: &[&str]) -> Value {
        let output = self
            .question(words)
            .args(["--output", "json"])
            .output()
            .unwrap();
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{words:?}: {error}: {output:?}"))
    }

    fn command(&self, without: Option<&Given>) -> Command {
        let pod = pod();
        let container = &pod["containers"][0];
        let has = |given: Given| without != Some(&given);
        let mut command = self.node.command(Path::new("unshare")).unwrap();
        command.args(["--mount", "--cgroup"]);
        if !has(Given::HostPid) {
            command.args(["--pid", "--fork", "--kill-child"]);
        }
        if !has(Given::HostNetwork) {
            command.arg("--net");
        }
        command.args(["--", "sh", "-c", ENTER]).arg(&self.root);
        for mount in container["volumeMounts"].as_array().unwrap() {
            let inside = mount["mountPath"].as_str().unwrap();
            if has(Given::Mount(inside.to_owned())) {
                let mode = if mount["readOnly"] == true {
                    "ro"
                } else {
                    "rw"
                };
                command.arg(self.place(&pod, mount)).args([inside, mode]);
            }
        }
        // Beside what the manifest says: what is in the mesh, and which part of this machine is the node.
        command
            .arg(self.node.manifests())
            .args(["/tmp", "ro", "--"]);
        let kept = container["securityContext"]["capabilities"]["add"]
            .as_array()
            .unwrap();
        let is_kept = |name: &str| {
            let is_added = kept
                .iter()
                .any(|it| it.as_str().unwrap().to_lowercase() == name);
            is_added && has(Given::Capability(name.to_uppercase()))
        };
        let dropped = CAPABILITIES.iter().filter(|name| !is_kept(name));
        let dropped: Vec<String> = dropped.map(|name| format!("cap_{name}")).collect();
        command
            .arg("--no-new-privs")
            .arg(format!("--drop={}", dropped.join(",")));
        if !has(Given::Root) {
            command.arg("--uid=65532");
        }
        command.arg(format!("--shell={}", image::PROGRAM)).arg("--");
        for word in container["args"].as_array().unwrap() {
            command.arg(word.as_str().unwrap());
        }
        for variable in container["env"].as_array().unwrap() {
            let value = variable["value"].as_str().unwrap_or("node-1");
            command.env(variable["name"].as_str().unwrap(), value);
        }
        command.args(["--source", "manifests", "--manifests", "/tmp", "--bpf-dir"]);
        command.arg(self.node.bpf_directory().unwrap());
        command.arg("--cgroup").arg(self.node.cgroup().unwrap());
        command
    }

    /// Returns where a volume is: what is the machine's own there, and the rest on the node.
    fn place(&self, pod: &Value, mount: &Value) -> PathBuf {
        let volumes = pod["volumes"].as_array().unwrap().iter();
        let mut volumes = volumes.filter(|it| it["name"] == mount["name"]);
        let path = volumes.next().unwrap()["hostPath"]["path"]
            .as_str()
            .unwrap();
        match path {
            "/run/underpass" => self.node.files().join("run"),
            "/var/lib/underpass" => self.node.files().join("state"),
            path => PathBuf::from(path),
        }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        self.running.take();
        let mut uninstall = Command::new(harness::agent::program().unwrap());
        uninstall
            .args(["uninstall", "--bpf-dir"])
            .arg(self.node.bpf_directory().unwrap());
        if let Err(error) = uninstall.output() {
            eprintln!("failed to uninstall: {error}");
        }
    }
}

fn question(socket: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(harness::agent::program().unwrap());
    command.arg("--socket").arg(socket).args(words);
    command
}

fn is_ready(socket: &Path) -> bool {
    let output = question(socket, &["status", "--no-rates", "--output", "json"])
        .output()
        .unwrap();
    let status: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let (config, generation) = (&status["config"], status["config"]["generation"].as_u64());
    generation.is_some_and(|it| it > 0)
        && config["kernel_generation"] == config["generation"]
        && status["agent"]["pending"]
            .as_array()
            .is_some_and(Vec::is_empty)
}
