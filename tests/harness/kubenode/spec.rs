//! What a pod's spec is to a container runtime.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::cri::{
    Capability, ContainerConfig, ContainerMetadata, DnsConfig, ImageSpec, Int64Value, KeyValue,
    LinuxContainerConfig, LinuxContainerResources, LinuxContainerSecurityContext,
    LinuxPodSandboxConfig, LinuxSandboxSecurityContext, Mount, NamespaceOption, PodSandboxConfig,
    PodSandboxMetadata, SecurityProfile,
};
use super::{API_SERVICE, NAME_SERVICE};

/// `NamespaceMode` of CRI.
const POD: i32 = 0;
const CONTAINER: i32 = 1;
const NODE: i32 = 2;

/// `SecurityProfile.ProfileType`.
const RUNTIME_DEFAULT: i32 = 0;
const UNCONFINED: i32 = 1;

/// Paths that kubelet hides from containers, and those that it lets them read, unless `procMount` says otherwise.
const MASKED: [&str; 9] = [
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

pub(super) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

pub(super) fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn texts(value: &Value) -> Vec<String> {
    items(value).map(text).collect()
}

fn is_true(value: &Value) -> bool {
    value.as_bool() == Some(true)
}

/// Returns a pod's level of service, as its status has it.
pub(super) fn quality(pod: &Value) -> &'static str {
    let containers = || items(&pod["spec"]["containers"]);
    let of = |sort: &str, it: &Value| {
        it["resources"][sort]
            .as_object()
            .is_some_and(|it| !it.is_empty())
    };
    let is_whole = |it: &Value| {
        let limits = &it["resources"]["limits"];
        limits["cpu"].is_string() && limits["memory"].is_string() && {
            let requests = &it["resources"]["requests"];
            requests.is_null() || requests == limits
        }
    };
    if containers().all(is_whole) {
        "Guaranteed"
    } else if containers().any(|it| of("requests", it) || of("limits", it)) {
        "Burstable"
    } else {
        "BestEffort"
    }
}

/// Returns a pod's cgroup, as kubelet's driver `cgroupfs` names it.
pub(super) fn cgroup(pod: &Value) -> String {
    let uid = text(&pod["metadata"]["uid"]);
    match quality(pod) {
        "Guaranteed" => format!("/kubepods/pod{uid}"),
        quality => format!("/kubepods/{}/pod{uid}", quality.to_lowercase()),
    }
}

fn namespaces(pod: &Value) -> NamespaceOption {
    let spec = &pod["spec"];
    let of = |field: &str, own: i32| if is_true(&spec[field]) { NODE } else { own };
    NamespaceOption {
        network: of("hostNetwork", POD),
        pid: of("hostPID", CONTAINER),
        ipc: of("hostIPC", POD),
    }
}

fn profile(context: &Value) -> Option<SecurityProfile> {
    let profile_type = match context["type"].as_str()? {
        "RuntimeDefault" => RUNTIME_DEFAULT,
        _ => UNCONFINED,
    };
    Some(SecurityProfile { profile_type })
}

fn is_privileged(container: &Value) -> bool {
    is_true(&container["securityContext"]["privileged"])
}

/// Returns a pod's sandbox; what its containers write goes below `logs`.
pub(super) fn sandbox(pod: &Value, logs: &Path) -> PodSandboxConfig {
    let metadata = &pod["metadata"];
    let spec = &pod["spec"];
    let seccomp = profile(&spec["securityContext"]["seccompProfile"]);
    let is_on_host = is_true(&spec["hostNetwork"]);
    let cluster_names = match spec["dnsPolicy"].as_str().unwrap_or("ClusterFirst") {
        "ClusterFirst" => !is_on_host,
        policy => policy == "ClusterFirstWithHostNet",
    };
    let namespace = text(&metadata["namespace"]);
    let search = |what: &str| format!("{what}.cluster.local");
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: text(&metadata["name"]),
            uid: text(&metadata["uid"]),
            namespace: namespace.clone(),
        }),
        // On the host's network it keeps the host's name.
        hostname: match is_on_host {
            true => String::new(),
            false => text(&metadata["name"]),
        },
        log_directory: logs.display().to_string(),
        dns_config: cluster_names.then(|| DnsConfig {
            servers: vec![NAME_SERVICE.to_string()],
            searches: vec![
                search(&format!("{namespace}.svc")),
                search("svc"),
                "cluster.local".to_owned(),
            ],
            options: vec!["ndots:5".to_owned()],
        }),
        labels: labels(pod, None),
        linux: Some(LinuxPodSandboxConfig {
            cgroup_parent: cgroup(pod),
            security_context: Some(LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces(pod)),
                privileged: items(&spec["containers"]).any(is_privileged),
                // kubelet's sandboxes have the runtime's profile.
                seccomp: seccomp.or(Some(SecurityProfile {
                    profile_type: RUNTIME_DEFAULT,
                })),
            }),
        }),
    }
}

/// By which everybody who looks at containers finds their pods.
fn labels(pod: &Value, container: Option<&str>) -> HashMap<String, String> {
    let metadata = &pod["metadata"];
    let mut labels = HashMap::new();
    let mut set = |name: &str, value: String| {
        labels.insert(format!("io.kubernetes.{name}"), value);
    };
    set("pod.name", text(&metadata["name"]));
    set("pod.namespace", text(&metadata["namespace"]));
    set("pod.uid", text(&metadata["uid"]));
    if let Some(container) = container {
        set("container.name", container.to_owned());
    }
    labels
}

/// Returns a container of a pod.
pub(super) fn container(
    pod: &Value,
    container: &Value,
    attempt: u32,
    mounts: Vec<Mount>,
) -> Result<ContainerConfig> {
    let name = text(&container["name"]);
    let envs = environment(pod, container)?;
    let known: HashMap<&str, &str> = envs
        .iter()
        .map(|it| (it.key.as_str(), it.value.as_str()))
        .collect();
    let filled = |list: &Value| texts(list).iter().map(|it| expanded(it, &known)).collect();
    let (command, args) = (filled(&container["command"]), filled(&container["args"]));
    Ok(ContainerConfig {
        metadata: Some(ContainerMetadata {
            name: name.clone(),
            attempt,
        }),
        image: Some(ImageSpec {
            image: text(&container["image"]),
        }),
        command,
        args,
        envs,
        mounts,
        labels: labels(pod, Some(&name)),
        log_path: format!("{name}/{attempt}.log"),
        linux: Some(LinuxContainerConfig {
            resources: Some(resources(container)),
            security_context: Some(security(pod, container)),
        }),
    })
}

fn security(pod: &Value, container: &Value) -> LinuxContainerSecurityContext {
    let (own, all) = (
        &container["securityContext"],
        &pod["spec"]["securityContext"],
    );
    // The container's before the pod's.
    let either = |field: &str| match own[field].is_null() {
        true => &all[field],
        false => &own[field],
    };
    let number = |field: &str| either(field).as_i64().map(|value| Int64Value { value });
    let is_privileged = is_privileged(container);
    let paths = |list: &[&str]| match is_privileged {
        true => Vec::new(),
        false => list.iter().map(|it| (*it).to_owned()).collect(),
    };
    LinuxContainerSecurityContext {
        capabilities: Some(Capability {
            add_capabilities: texts(&own["capabilities"]["add"]),
            drop_capabilities: texts(&own["capabilities"]["drop"]),
        }),
        privileged: is_privileged,
        namespace_options: Some(namespaces(pod)),
        run_as_user: number("runAsUser"),
        run_as_group: number("runAsGroup"),
        readonly_rootfs: is_true(&own["readOnlyRootFilesystem"]),
        no_new_privs: own["allowPrivilegeEscalation"].as_bool() == Some(false),
        masked_paths: paths(&MASKED),
        readonly_paths: paths(&READ_ONLY),
        seccomp: profile(either("seccompProfile")).or(Some(SecurityProfile {
            profile_type: UNCONFINED,
        })),
        apparmor: profile(either("appArmorProfile")),
    }
}

/// Returns what the kernel is told of resources. Shares of a processor as kubelet reckons them.
fn resources(container: &Value) -> LinuxContainerResources {
    let resources = &container["resources"];
    let milli = quantity(&resources["requests"]["cpu"]).unwrap_or(0.0) * 1000.0;
    #[expect(
        clippy::cast_possible_truncation,
        reason = "small numbers of shares and bytes"
    )]
    let whole = |number: f64| number as i64;
    LinuxContainerResources {
        cpu_shares: whole(milli * 1.024).max(2),
        memory_limit_in_bytes: quantity(&resources["limits"]["memory"]).map_or(0, whole),
        oom_score_adj: 900,
    }
}

/// Reads a quantity: a number, and maybe a suffix.
fn quantity(value: &Value) -> Option<f64> {
    let text = match value.as_str() {
        Some(text) => text.to_owned(),
        None => value.as_f64()?.to_string(),
    };
    let units = [
        ("Ki", 1024.0),
        ("Mi", 1024.0 * 1024.0),
        ("Gi", 1024.0 * 1024.0 * 1024.0),
        ("m", 0.001),
        ("", 1.0),
    ];
    units.iter().find_map(|(unit, factor)| {
        let number: f64 = text.strip_suffix(unit)?.parse().ok()?;
        Some(number * factor)
    })
}

/// Returns a container's environment: where the API server is, and then its own.
fn environment(pod: &Value, container: &Value) -> Result<Vec<KeyValue>> {
    let mut all: Vec<KeyValue> = Vec::new();
    let mut set = |key: &str, value: String| {
        let key = key.to_owned();
        all.push(KeyValue { key, value });
    };
    set("KUBERNETES_SERVICE_HOST", API_SERVICE.to_string());
    set("KUBERNETES_SERVICE_PORT", "443".to_owned());
    set("KUBERNETES_SERVICE_PORT_HTTPS", "443".to_owned());
    for one in items(&container["env"]) {
        let name = text(&one["name"]);
        let value = match one["valueFrom"]["fieldRef"]["fieldPath"].as_str() {
            Some(path) => {
                let pointer = format!("/{}", path.replace('.', "/"));
                let found = pod.pointer(&pointer).and_then(Value::as_str);
                found
                    .with_context(|| format!("{name}: no {path}"))?
                    .to_owned()
            }
            None => {
                let known = all.iter().map(|it| (it.key.as_str(), it.value.as_str()));
                expanded(&text(&one["value"]), &known.collect())
            }
        };
        all.push(KeyValue { key: name, value });
    }
    Ok(all)
}

/// Fills in `$(NAME)`; a name that is not known stays as it is.
fn expanded(text: &str, known: &HashMap<&str, &str>) -> String {
    let mut filled = text.to_owned();
    for (name, value) in known {
        filled = filled.replace(&format!("$({name})"), value);
    }
    filled
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn quantities_are_read() {
        for (text, number) in [("50m", 0.05), ("1Gi", 1_073_741_824.0), ("2", 2.0)] {
            let read = quantity(&text.into()).unwrap();
            assert!((read - number).abs() < 1e-6, "{text}: {read}");
        }
        assert_eq!(quantity(&"many".into()), None);
    }

    #[test]
    fn cgroups_are_named_after_quality_and_uid() {
        let pod = |resources: Value| json!({"metadata": {"uid": "u"}, "spec": {"containers": [{"resources": resources}]}});
        let all = json!({"cpu": "1", "memory": "1Gi"});
        assert_eq!(cgroup(&pod(json!({}))), "/kubepods/besteffort/podu");
        assert_eq!(
            cgroup(&pod(json!({"requests": {"cpu": "1"}}))),
            "/kubepods/burstable/podu"
        );
        assert_eq!(
            cgroup(&pod(json!({"requests": all, "limits": all}))),
            "/kubepods/podu"
        );
    }

    #[test]
    fn names_are_filled_in() {
        let known = HashMap::from([("HOST_IP", "10.0.0.1")]);
        assert_eq!(
            expanded("$(HOST_IP):1 $(OTHER)", &known),
            "10.0.0.1:1 $(OTHER)"
        );
    }
}
