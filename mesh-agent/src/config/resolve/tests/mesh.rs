//! Who is in the mesh, and whose an address is that two pods have.
#![forbid(unsafe_code)]

use std::sync::Arc;

use serde_json::{Value, json};

use super::super::Resolver;
use crate::config::content::Content;
use crate::config::key::{Key, Kind, Place};
use crate::config::node::Unplaced;
use crate::config::object;
use crate::model::workload::{Acceleration, Location, Workload};

const MESH: &str = "underpass.dev/mesh";

/// Objects of an API server, as they come.
struct Api(Resolver);

impl Api {
    fn new() -> Self {
        Self(Resolver::new(Acceleration::Auto))
    }

    /// As the server has it, valid or not.
    fn put(&mut self, kind: Kind, object: &Value) -> bool {
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or("").to_owned();
        let key = Key {
            kind,
            namespace: text("namespace"),
            name: text("name"),
        };
        let place = Place::of_api(&key);
        let Unplaced(node) = serde_json::from_str(&object.to_string()).unwrap();
        let content = Content::of_object(object::read_api(place, kind, &node));
        let file = content.file.clone();
        self.0.update_some([(file, Some(Arc::new(content)))])
    }

    fn set(&mut self, kind: Kind, object: &Value) -> bool {
        let is_new = self.put(kind, object);
        assert!(
            self.0
                .problems()
                .iter()
                .all(|it| it.severity != crate::config::problem::Severity::Error),
            "{:?}",
            self.0.problems()
        );
        is_new
    }

    /// As [`Self::namespace`], among objects that are not valid.
    fn namespaced(&mut self, mesh: Option<&str>) -> bool {
        let labels = mesh.map_or_else(|| json!({}), |word| json!({MESH: word}));
        let namespace = json!({"metadata": {"name": "shop", "labels": labels}});
        self.put(Kind::Namespace, &namespace)
    }

    fn namespace(&mut self, mesh: Option<&str>) -> bool {
        let labels = mesh.map_or_else(|| json!({}), |word| json!({MESH: word}));
        self.set(
            Kind::Namespace,
            &json!({"metadata": {"name": "shop", "labels": labels}}),
        )
    }

    fn workload(&self, name: &str) -> &Workload {
        let mut all = self.0.resolved().workloads.iter();
        all.find(|it| it.name.name == name).unwrap()
    }

    fn enrolled(&self) -> Vec<&str> {
        let all = self.0.resolved().workloads.iter();
        let enrolled = all.filter(|it| it.enrolled);
        enrolled.map(|it| it.name.name.as_str()).collect()
    }
}

fn pod(name: &str, mesh: Option<&str>) -> Value {
    let labels = mesh.map_or_else(|| json!({}), |word| json!({MESH: word}));
    json!({"metadata": {"name": name, "namespace": "shop", "uid": format!("uid-{name}"), "labels": labels},
        "spec": {"nodeName": "here"}, "status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}]}})
}

fn at(mut pod: Value, address: &str) -> Value {
    pod["status"]["podIPs"] = json!([{"ip": address}]);
    pod
}

fn ending(mut pod: Value) -> Value {
    pod["metadata"]["deletionTimestamp"] = "2026-11-21T10:00:00Z".into();
    pod
}

#[test]
fn in_a_cluster_labels_say_who_is_in_the_mesh() {
    let mut api = Api::new();
    for (name, mesh, address) in [
        ("a", None, "10.0.0.1"),
        ("b", Some("enabled"), "10.0.0.2"),
        ("c", Some("disabled"), "10.0.0.3"),
    ] {
        assert!(api.set(Kind::Pod, &at(pod(name, mesh), address)));
    }
    assert_eq!(api.enrolled(), ["b"]);
    // The namespace comes, changes and says nothing any more.
    assert!(api.namespace(Some("enabled")));
    assert_eq!(api.enrolled(), ["a", "b"]);
    assert!(!api.namespace(Some("enabled")));
    api.namespace(Some("disabled"));
    assert_eq!(api.enrolled(), ["b"]);
    api.namespace(Some("enabled"));
    api.namespace(None);
    assert_eq!(api.enrolled(), ["b"]);
    assert_eq!(api.0.resolved().workloads.len(), 3, "all are known");
}

#[test]
fn a_pod_of_a_cluster_is_a_workload_before_it_has_an_address() {
    let mut api = Api::new();
    let mut pending = pod("a", Some("enabled"));
    pending["status"] = json!({"phase": "Pending"});
    let mut unscheduled = pending.clone();
    unscheduled["metadata"]["name"] = "b".into();
    unscheduled["spec"] = json!({});
    api.set(Kind::Pod, &pending);
    api.set(Kind::Pod, &unscheduled);
    assert_eq!(api.enrolled(), ["a"]);
    let found = api.workload("a");
    assert_eq!(
        (found.started, &found.location),
        (false, &Location::Kubelet)
    );
    let mut running = pod("a", Some("enabled"));
    running["status"]["initContainerStatuses"] = json!([{"containerID": "containerd://one"}]);
    running["status"]["containerStatuses"] =
        json!([{"containerID": "cri-o://two"}, {"containerID": ""}, {}]);
    api.set(Kind::Pod, &running);
    let found = api.workload("a");
    assert!(found.started);
    assert_eq!(found.containers, ["one", "two"]);
    for phase in ["Succeeded", "Failed"] {
        running["status"]["phase"] = phase.into();
        api.set(Kind::Pod, &running);
        assert!(api.enrolled().is_empty(), "{phase}");
    }
}

#[test]
fn pods_in_their_nodes_network_are_named_if_they_are_in_the_mesh() {
    let mut api = Api::new();
    let mut host = pod("a", None);
    host["spec"]["hostNetwork"] = true.into();
    api.set(Kind::Pod, &host);
    let named = |api: &Api| {
        api.0
            .resolved()
            .host_pods
            .values()
            .cloned()
            .collect::<Vec<_>>()
    };
    assert!(named(&api).is_empty());
    assert!(api.namespace(Some("enabled")));
    assert_eq!(named(&api), [Some("here".to_owned())]);
    assert!(api.0.resolved().workloads.is_empty());
    host["status"]["phase"] = "Failed".into();
    assert!(api.set(Kind::Pod, &host));
    assert!(named(&api).is_empty());
}

#[test]
fn a_pod_that_is_being_deleted_has_its_address_until_another_has_it() {
    let address = |api: &Api, name: &str| api.workload(name).addresses.clone();
    let ip: Vec<std::net::IpAddr> = vec![[10, 0, 0, 1].into()];
    let (old, new) = (pod("z-old", None), pod("new", None));
    let mut api = Api::new();
    api.set(Kind::Pod, &old);
    api.set(Kind::Pod, &ending(old.clone()));
    assert_eq!(address(&api, "z-old"), ip);
    // No matter in which order the two are told of.
    for is_first in [true, false] {
        let mut api = Api::new();
        let both = [ending(old.clone()), new.clone()];
        let order = if is_first { [0, 1] } else { [1, 0] };
        for index in order {
            api.set(Kind::Pod, &both[index]);
        }
        assert_eq!(
            (address(&api, "z-old"), address(&api, "new")),
            (vec![], ip.clone())
        );
    }
    api.set(Kind::Pod, &new);
    assert_eq!(
        (address(&api, "z-old"), address(&api, "new")),
        (vec![], ip.clone())
    );
    // It moved on, or is being deleted in its turn: the first by name.
    api.set(Kind::Pod, &at(new.clone(), "10.0.0.2"));
    assert_eq!(address(&api, "z-old"), ip);
    api.set(Kind::Pod, &ending(new));
    assert_eq!((address(&api, "z-old"), address(&api, "new")), (vec![], ip));
}

#[test]
fn a_manifest_is_in_the_mesh_unless_something_says_otherwise() {
    let manifests = |text: &str| {
        let content = Arc::new(Content::parse("a.yaml", text.as_bytes(), None));
        let mut resolver = Resolver::new(Acceleration::Auto);
        resolver.update(Ok(&[content]));
        let workloads = resolver.resolved().workloads.clone();
        workloads.iter().map(|it| it.enrolled).collect::<Vec<_>>()
    };
    let pod = |name: &str, labels: &str, address: u8| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, labels: {{{labels}}}}}\n\
             status: {{podIPs: [{{ip: 10.0.0.{address}}}]}}\n"
        )
    };
    let (enabled, disabled) = (format!("{MESH}: enabled"), format!("{MESH}: disabled"));
    let pods = pod("a", "", 1) + &pod("b", &enabled, 2) + &pod("c", &disabled, 3);
    assert_eq!(manifests(&pods), [true, true, false]);
    let namespace = format!(
        "---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: shop, labels: {{{disabled}}}}}\n"
    );
    assert_eq!(manifests(&(pods + &namespace)), [false, true, false]);
}

#[test]
fn pods_whose_objects_are_not_valid_are_named_if_they_are_in_the_mesh() {
    let mut api = Api::new();
    let broken = |name: &str, mesh: Option<&str>| {
        let mut pod = pod(name, mesh);
        pod["status"]["podIPs"] = json!([{"ip": "10.0.0.300"}]);
        pod
    };
    let named = |api: &Api| -> Vec<(String, Option<String>, String)> {
        let all = api.0.resolved().rejected_pods.iter();
        all.map(|(name, it)| (name.name.clone(), it.node.clone(), it.why.clone()))
            .collect()
    };
    let names = |api: &Api| -> Vec<String> { named(api).into_iter().map(|it| it.0).collect() };
    assert!(!api.put(Kind::Pod, &broken("a", None)));
    assert!(named(&api).is_empty());
    assert!(api.put(Kind::Pod, &broken("b", Some("enabled"))));
    let (name, node, why) = named(&api).remove(0);
    assert_eq!((name.as_str(), node.as_deref()), ("b", Some("here")));
    assert!(why.contains("10.0.0.300"), "{why}");
    // As its namespace says.
    assert!(api.namespaced(Some("enabled")));
    assert_eq!(names(&api), ["a", "b"]);
    assert!(api.put(Kind::Pod, &broken("a", Some("disabled"))));
    assert_eq!(names(&api), ["b"]);
    // Valid, and not any more: its last version stays in force.
    let mut valid = pod("b", Some("enabled"));
    valid["status"]["podIPs"] = json!([{"ip": "10.0.0.7"}]);
    valid["status"]["podIP"] = "10.0.0.7".into();
    assert!(api.put(Kind::Pod, &valid));
    api.put(Kind::Pod, &broken("b", Some("enabled")));
    assert!(named(&api).is_empty());
    // One that claims what another has.
    let mut twin = valid.clone();
    twin["metadata"]["name"] = "c".into();
    api.put(Kind::Pod, &twin);
    assert_eq!(names(&api), ["c"]);
    assert!(named(&api)[0].2.contains("10.0.0.7"), "{:?}", named(&api));
    // Gone.
    let key = Key {
        kind: Kind::Pod,
        namespace: "shop".to_owned(),
        name: "c".to_owned(),
    };
    assert!(api.0.update_some([(Place::of_api(&key).file, None)]));
    assert!(named(&api).is_empty());
}
