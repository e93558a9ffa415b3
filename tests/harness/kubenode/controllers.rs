//! A stand-in for the controllers and the scheduler of a cluster: objects that follow from others.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::Ipv4Addr;

use serde_json::{Value, json};

use super::spec::{items, text};
use super::{API_SERVICE, NODE, SERVICE_NETWORK, rights};
use crate::apiserver::{Kind, State, now};

/// Brings everything one step further.
pub(super) fn step(state: &mut State, authority: &str) {
    kinds(state);
    namespaces(state, authority);
    rights::follow(state);
    services(state);
    daemon_sets(state);
    deployments(state);
    schedule(state);
    slices(state);
    orphans(state);
}

/// Sets an object where that makes it another one.
fn put(state: &mut State, object: Value) {
    let (kind, metadata) = (text(&object["kind"]), &object["metadata"]);
    let before = state.get(
        &kind,
        &text(&metadata["namespace"]),
        &text(&metadata["name"]),
    );
    if before.is_none_or(|before| before != object) {
        state.set(object);
    }
}

fn is_ending(object: &Value) -> bool {
    !object["metadata"]["deletionTimestamp"].is_null()
}

/// Kinds come and go with their definitions.
fn kinds(state: &mut State) {
    let mut wanted = Vec::new();
    for definition in state.all("CustomResourceDefinition") {
        let spec = &definition["spec"];
        for version in items(&spec["versions"]).filter(|it| it["served"] == true) {
            wanted.push(Kind::custom(
                &text(&spec["group"]),
                &text(&version["name"]),
                &text(&spec["names"]["kind"]),
                &text(&spec["names"]["plural"]),
            ));
        }
    }
    state.know_custom(&wanted);
}

/// Each namespace has an account and knows the server's authority; one that ends takes everything along.
fn namespaces(state: &mut State, authority: &str) {
    for namespace in state.all("Namespace") {
        let name = text(&namespace["metadata"]["name"]);
        if !is_ending(&namespace) {
            let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": name}});
            let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kube-root-ca.crt", "namespace": name},
                "data": {"ca.crt": authority}});
            for object in [account, map] {
                let (kind, of) = (text(&object["kind"]), text(&object["metadata"]["name"]));
                if state.get(&kind, &name, &of).is_none() {
                    state.make(object);
                }
            }
            // As the server labels each.
            if namespace["metadata"]["labels"]["kubernetes.io/metadata.name"].is_null() {
                let mut namespace = namespace;
                namespace["metadata"]["labels"]["kubernetes.io/metadata.name"] = name.into();
                namespace["status"] = json!({"phase": "Active"});
                state.set(namespace);
            }
            continue;
        }
        let mut is_empty = true;
        for kind in state.words() {
            for object in state.all(&kind) {
                if object["metadata"]["namespace"] != name.as_str() {
                    continue;
                }
                let of = text(&object["metadata"]["name"]);
                match kind.as_str() {
                    "Pod" => state.end_pod(&name, &of, None),
                    kind => state.delete(kind, &name, &of),
                }
                is_empty &= state.get(&kind, &name, &of).is_none();
            }
        }
        if is_empty {
            state.delete("Namespace", "", &name);
        }
    }
}

/// Services get addresses.
fn services(state: &mut State) {
    let all = state.all("Service");
    let taken: Vec<String> = all
        .iter()
        .map(|it| text(&it["spec"]["clusterIP"]))
        .collect();
    let mut free = (20..=u8::MAX).map(|last| {
        let [a, b, c, _] = SERVICE_NETWORK.octets();
        Ipv4Addr::new(a, b, c, last).to_string()
    });
    for mut service in all {
        if service["spec"]["clusterIP"].is_string() {
            continue;
        }
        let address = free.find(|it| !taken.contains(it));
        let spec = &mut service["spec"];
        spec["clusterIP"] = address.clone().into();
        spec["clusterIPs"] = json!([address]);
        spec["type"] = "ClusterIP".into();
        state.set(service);
    }
}

fn hash(template: &Value) -> String {
    let mut hasher = DefaultHasher::new();
    template.to_string().hash(&mut hasher);
    format!("{:010x}", hasher.finish() & 0xff_ffff_ffff)
}

/// What a pod bears that tells of which template it is.
const HASH: &str = "pod-template-hash";

/// Returns the pods that an object owns.
fn owned(state: &State, owner: &Value) -> Vec<Value> {
    let mut pods = state.all("Pod");
    pods.retain(|pod| {
        let mut owners = items(&pod["metadata"]["ownerReferences"]);
        owners.any(|it| it["uid"] == owner["metadata"]["uid"])
    });
    pods
}

/// Makes a pod of a template.
fn make(state: &mut State, owner: &Value, node: Option<&str>) {
    let template = &owner["spec"]["template"];
    let metadata = &owner["metadata"];
    let hash = hash(template);
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": template["metadata"], "spec": template["spec"]});
    let name = format!("{}-{hash}-{}", text(&metadata["name"]), state.version);
    pod["metadata"]["name"] = name.into();
    pod["metadata"]["namespace"] = metadata["namespace"].clone();
    pod["metadata"]["labels"][HASH] = hash.into();
    pod["metadata"]["ownerReferences"] = json!([{"apiVersion": owner["apiVersion"], "kind": owner["kind"],
        "name": metadata["name"], "uid": metadata["uid"], "controller": true}]);
    if let Some(node) = node {
        pod["spec"]["nodeName"] = node.into();
    }
    pod["status"] = json!({"phase": "Pending"});
    state.make(pod);
}

fn is_ready(pod: &Value) -> bool {
    let mut conditions = items(&pod["status"]["conditions"]);
    conditions.any(|it| it["type"] == "Ready" && it["status"] == "True")
}

/// One pod on each node; a new one once the old one is gone.
fn daemon_sets(state: &mut State) {
    for mut set in state.all("DaemonSet") {
        let of = hash(&set["spec"]["template"]);
        let pods = owned(state, &set);
        let (new, old): (Vec<_>, Vec<_>) = pods
            .iter()
            .partition(|pod| pod["metadata"]["labels"][HASH] == of.as_str());
        for pod in old {
            let metadata = &pod["metadata"];
            state.end_pod(
                &text(&metadata["namespace"]),
                &text(&metadata["name"]),
                None,
            );
        }
        if pods.is_empty() {
            make(state, &set, Some(NODE));
        }
        let count = |so: &dyn Fn(&Value) -> bool| {
            new.iter().filter(|pod| !is_ending(pod) && so(pod)).count()
        };
        let (there, ready) = (count(&|_| true), count(&is_ready));
        set["status"] = json!({"desiredNumberScheduled": 1, "currentNumberScheduled": there, "numberMisscheduled": 0,
            "updatedNumberScheduled": there, "numberReady": ready, "numberAvailable": ready,
            "observedGeneration": set["metadata"]["generation"]});
        put(state, set);
    }
}

/// As many pods as there are to be; an old one ends once a new one is ready.
fn deployments(state: &mut State) {
    for mut deployment in state.all("Deployment") {
        let wanted = deployment["spec"]["replicas"].as_u64().unwrap_or(1);
        let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
        let of = hash(&deployment["spec"]["template"]);
        let pods = owned(state, &deployment);
        let living = pods.iter().filter(|pod| !is_ending(pod));
        let (new, old): (Vec<_>, Vec<_>) =
            living.partition(|pod| pod["metadata"]["labels"][HASH] == of.as_str());
        for _ in new.len()..wanted {
            make(state, &deployment, None);
        }
        let ready = new.iter().filter(|pod| is_ready(pod)).count();
        let surplus = old.iter().take(ready).chain(new.iter().skip(wanted));
        for pod in surplus {
            let metadata = &pod["metadata"];
            state.end_pod(
                &text(&metadata["namespace"]),
                &text(&metadata["name"]),
                None,
            );
        }
        deployment["status"] = json!({"replicas": new.len() + old.len(), "updatedReplicas": new.len(), "readyReplicas": ready,
            "availableReplicas": ready, "observedGeneration": deployment["metadata"]["generation"]});
        put(state, deployment);
    }
}

/// Pods get the node, unless it has a taint that they do not tolerate.
fn schedule(state: &mut State) {
    let Some(node) = state.get("Node", "", NODE) else {
        return;
    };
    for mut pod in state.all("Pod") {
        if pod["spec"]["nodeName"].is_string() {
            continue;
        }
        let tolerates = |taint: &Value| {
            items(&pod["spec"]["tolerations"]).any(|it| {
                (it["key"].is_null() || it["key"] == taint["key"])
                    && (it["effect"].is_null() || it["effect"] == taint["effect"])
                    && (it["operator"] == "Exists" || it["value"] == taint["value"])
            })
        };
        if items(&node["spec"]["taints"]).all(tolerates) {
            pod["spec"]["nodeName"] = NODE.into();
            state.set(pod);
        }
    }
}

/// Services have the pods that they select as endpoints.
fn slices(state: &mut State) {
    let pods = state.all("Pod");
    for service in state.all("Service") {
        let metadata = &service["metadata"];
        let (namespace, name) = (text(&metadata["namespace"]), text(&metadata["name"]));
        let Some(selector) = service["spec"]["selector"].as_object() else {
            continue;
        };
        let selected = pods.iter().filter(|pod| {
            let labels = &pod["metadata"]["labels"];
            pod["metadata"]["namespace"] == namespace.as_str()
                && pod["status"]["podIP"].is_string()
                && selector.iter().all(|(key, value)| labels[key] == *value)
        });
        let endpoints: Vec<Value> = selected.clone().map(endpoint).collect();
        let first = selected.clone().next().cloned().unwrap_or_default();
        let ports: Vec<Value> = items(&service["spec"]["ports"])
            .map(|port| slice_port(port, &first))
            .collect();
        let mut slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": format!("{name}-1"), "namespace": namespace, "labels": {"kubernetes.io/service-name": name,
                    "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"},
                "ownerReferences": [{"apiVersion": "v1", "kind": "Service", "name": name, "uid": metadata["uid"]}]},
            "endpoints": endpoints, "ports": ports});
        match state.get("EndpointSlice", &namespace, &format!("{name}-1")) {
            None => drop(state.make(slice)),
            Some(before) => {
                for field in ["uid", "creationTimestamp", "generation", "resourceVersion"] {
                    slice["metadata"][field] = before["metadata"][field].clone();
                }
                put(state, slice);
            }
        }
    }
}

fn endpoint(pod: &Value) -> Value {
    let (ready, ending) = (is_ready(pod), is_ending(pod));
    json!({"addresses": [pod["status"]["podIP"]], "nodeName": pod["spec"]["nodeName"],
        "conditions": {"ready": ready && !ending, "serving": ready, "terminating": ending},
        "targetRef": {"kind": "Pod", "namespace": pod["metadata"]["namespace"], "name": pod["metadata"]["name"],
            "uid": pod["metadata"]["uid"]}})
}

fn slice_port(port: &Value, pod: &Value) -> Value {
    let target = &port["targetPort"];
    let number = match target.as_str() {
        Some(name) => {
            let mut ports = items(&pod["spec"]["containers"]).flat_map(|it| items(&it["ports"]));
            let found = ports.find(|it| it["name"] == name);
            found.map_or(Value::Null, |it| it["containerPort"].clone())
        }
        None if target.is_null() => port["port"].clone(),
        None => target.clone(),
    };
    let protocol = port["protocol"].as_str().unwrap_or("TCP");
    let mut of = json!({"name": port["name"].as_str().unwrap_or_default(), "port": number, "protocol": protocol});
    if port["appProtocol"].is_string() {
        of["appProtocol"] = port["appProtocol"].clone();
    }
    of
}

/// What somebody owned goes once the owner is gone.
fn orphans(state: &mut State) {
    let mut owners: BTreeMap<String, bool> = BTreeMap::new();
    for kind in ["DaemonSet", "Deployment", "Service"] {
        for object in state.all(kind) {
            owners.insert(text(&object["metadata"]["uid"]), true);
        }
    }
    for kind in ["Pod", "EndpointSlice"] {
        for object in state.all(kind) {
            let metadata = &object["metadata"];
            let mut references = items(&metadata["ownerReferences"]);
            if references.any(|it| !owners.contains_key(&text(&it["uid"]))) {
                let (namespace, name) = (text(&metadata["namespace"]), text(&metadata["name"]));
                match kind {
                    "Pod" => state.end_pod(&namespace, &name, None),
                    kind => state.delete(kind, &namespace, &name),
                }
            }
        }
    }
}

/// Kinds that a server has besides those that the mesh asks for.
pub(super) fn builtin() -> Vec<Kind> {
    let kind = |group: &str, word: &str, resource: &str| Kind {
        is_custom: false,
        ..Kind::custom(group, "v1", word, resource)
    };
    let (roles, admission) = ("rbac.authorization.k8s.io", "admissionregistration.k8s.io");
    vec![
        kind("", "Event", "events"),
        kind("", "Secret", "secrets"),
        kind("", "ServiceAccount", "serviceaccounts"),
        kind("apps", "DaemonSet", "daemonsets"),
        kind("apps", "Deployment", "deployments"),
        kind("policy", "PodDisruptionBudget", "poddisruptionbudgets"),
        kind("scheduling.k8s.io", "PriorityClass", "priorityclasses"),
        kind(roles, "ClusterRole", "clusterroles"),
        kind(roles, "ClusterRoleBinding", "clusterrolebindings"),
        kind(roles, "Role", "roles"),
        kind(roles, "RoleBinding", "rolebindings"),
        kind(
            admission,
            "ValidatingAdmissionPolicy",
            "validatingadmissionpolicies",
        ),
        kind(
            admission,
            "ValidatingAdmissionPolicyBinding",
            "validatingadmissionpolicybindings",
        ),
    ]
}

/// What there is before anybody installs anything.
pub(super) fn first(state: &mut State, node_address: Ipv4Addr, port: u16) {
    for name in ["default", "kube-system"] {
        state.make(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}));
    }
    let labels = json!({"kubernetes.io/os": "linux", "kubernetes.io/hostname": NODE});
    // Pods wait for their node's agent.
    let taint =
        json!({"key": "underpass.dev/agent-not-ready", "value": "true", "effect": "NoSchedule"});
    state.make(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE, "labels": labels},
        "spec": {"podCIDR": super::POD_NETWORK, "taints": [taint]},
        "status": {"addresses": [{"type": "InternalIP", "address": node_address.to_string()}, {"type": "Hostname", "address": NODE}],
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": now()}]}}));
    let api = API_SERVICE.to_string();
    state.make(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "kubernetes", "namespace": "default"},
        "spec": {"type": "ClusterIP", "clusterIP": api, "clusterIPs": [api],
            "ports": [{"name": "https", "port": 443, "targetPort": port, "protocol": "TCP"}]}}));
    state.make(json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "endpoints": [{"addresses": [node_address.to_string()], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}]}));
}
