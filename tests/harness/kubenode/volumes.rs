//! Volumes of a pod: directories that are bound into its containers.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::cri::Mount;
use super::spec::{items, text};
use crate::ApiServer;

/// Where containers find who they are to the API server.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Volumes by their names, as paths of the node.
pub(super) type Volumes = BTreeMap<String, PathBuf>;

/// Makes a pod's volumes below a directory.
pub(super) fn make(api: &ApiServer, pod: &Value, at: &Path) -> Result<Volumes> {
    let namespace = text(&pod["metadata"]["namespace"]);
    let mut volumes = Volumes::new();
    for volume in items(&pod["spec"]["volumes"]) {
        let name = text(&volume["name"]);
        let own = at.join(&name);
        let path = if let Some(path) = volume["hostPath"]["path"].as_str() {
            // containerd makes one that is not there.
            PathBuf::from(path)
        } else if volume["emptyDir"].is_object() {
            open(&own)?;
            own
        } else if let Some(map) = volume["configMap"]["name"].as_str() {
            let map = api.get("ConfigMap", &namespace, map);
            let map = map.with_context(|| format!("no config map for volume {name}"))?;
            open(&own)?;
            for (file, content) in map["data"].as_object().into_iter().flatten() {
                fs::write(own.join(file), text(content))?;
            }
            own
        } else {
            bail!("no such volume here: {volume}");
        };
        volumes.insert(name, path);
    }
    let asks = pod["spec"]["automountServiceAccountToken"].as_bool();
    if asks != Some(false) {
        let own = at.join("kube-api-access");
        open(&own)?;
        let account = pod["spec"]["serviceAccountName"].as_str();
        let token = super::rights::token(&namespace, account.unwrap_or("default"));
        let authority = api
            .get("ConfigMap", &namespace, "kube-root-ca.crt")
            .context("no authority in this namespace yet")?;
        fs::write(own.join("token"), token)?;
        fs::write(own.join("namespace"), &namespace)?;
        fs::write(own.join("ca.crt"), text(&authority["data"]["ca.crt"]))?;
        volumes.insert(ACCOUNT.to_owned(), own);
    }
    Ok(volumes)
}

/// Makes a directory that any user may write to.
fn open(path: &Path) -> Result<()> {
    fs::create_dir_all(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o777))?;
    Ok(())
}

/// Returns what is bound into a container. `at` is a directory of its own.
pub(super) fn mounts(
    pod: &Value,
    container: &Value,
    volumes: &Volumes,
    at: &Path,
) -> Result<Vec<Mount>> {
    let mut mounts = Vec::new();
    let mut bind = |host: &Path, inside: &str, readonly: bool| {
        mounts.push(Mount {
            container_path: inside.to_owned(),
            host_path: host.display().to_string(),
            readonly,
            propagation: 0,
        });
    };
    for mount in items(&container["volumeMounts"]) {
        let name = text(&mount["name"]);
        let path = volumes.get(&name);
        let path = path.with_context(|| format!("no volume `{name}`"))?;
        let readonly = mount["readOnly"].as_bool() == Some(true);
        bind(path, &text(&mount["mountPath"]), readonly);
    }
    if let Some(path) = volumes.get(ACCOUNT) {
        bind(path, ACCOUNT, true);
    }
    // As kubelet adds to every container.
    fs::create_dir_all(at)?;
    let (hosts, message) = (at.join("etc-hosts"), at.join("termination-log"));
    let own = text(&pod["status"]["podIP"]);
    let name = text(&pod["metadata"]["name"]);
    fs::write(&hosts, format!("127.0.0.1\tlocalhost\n{own}\t{name}\n"))?;
    fs::write(&message, "")?;
    fs::set_permissions(&message, fs::Permissions::from_mode(0o666))?;
    bind(&hosts, "/etc/hosts", false);
    bind(&message, "/dev/termination-log", false);
    Ok(mounts)
}
