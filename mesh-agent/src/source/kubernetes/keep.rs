//! What is kept of an object: the fields that `config` reads, and nothing else.
//!
//! Most of what an API server sends is of no use here: `managedFields`, volumes, times of conditions. To leave it out at once
//! keeps the memory in proportion to what the agent knows, and makes changes of it no changes at all: a node says every few
//! minutes that it is well.
#![forbid(unsafe_code)]

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::role::Role;
use super::target::Scope;
use crate::config::key::Kind;
use crate::config::known;

/// What is kept of a value. Of a list, the same of each item.
#[derive(Debug)]
pub(super) enum Keep {
    /// All of it.
    All,
    /// Of a mapping, these fields.
    Fields(&'static [(&'static str, Keep)]),
    /// Of a mapping, these fields, and what else is kept of it.
    More(&'static [(&'static str, Keep)], &'static Keep),
    /// Of annotations, our own, but for these.
    OwnBut(&'static [&'static str]),
}

/// Annotations. Where a workload is, its author does not say here: whoever may make a pod could claim another's.
const ANNOTATIONS: Keep = Keep::OwnBut(&[known::CGROUP, known::NETNS, known::PID]);

/// `metadata` of the kinds that Kubernetes itself has.
const METADATA: Keep = Keep::Fields(&[
    ("name", Keep::All),
    ("namespace", Keep::All),
    ("uid", Keep::All),
    ("deletionTimestamp", Keep::All),
    ("labels", Keep::All),
    ("annotations", ANNOTATIONS),
]);

const CONTAINER: Keep = Keep::Fields(&[("ports", Keep::All), ("restartPolicy", Keep::All)]);

const POD_SPEC: Keep = Keep::Fields(&[
    ("containers", CONTAINER),
    ("hostNetwork", Keep::All),
    ("hostname", Keep::All),
    ("initContainers", CONTAINER),
    ("nodeName", Keep::All),
    ("serviceAccountName", Keep::All),
    ("subdomain", Keep::All),
]);

const CONDITIONS: Keep = Keep::Fields(&[("type", Keep::All), ("status", Keep::All)]);

const CONTAINER_STATUS: Keep = Keep::Fields(&[("containerID", Keep::All)]);

const POD: Keep = Keep::More(
    &[("metadata", POD_METADATA), ("status", POD_STATUS)],
    &POD_ELSEWHERE,
);

/// `metadata` of a pod of this node: also by what kubelet names the cgroup of one that it has from a file. Its author does not say
/// that either: the API server lets nobody change it.
const POD_METADATA: Keep = Keep::More(&[("annotations", POD_ANNOTATIONS)], &METADATA);

const POD_ANNOTATIONS: Keep = Keep::More(&[(known::MIRROR, Keep::All)], &ANNOTATIONS);

const POD_STATUS: Keep = Keep::More(
    &[
        ("containerStatuses", CONTAINER_STATUS),
        ("initContainerStatuses", CONTAINER_STATUS),
    ],
    &POD_STATUS_ELSEWHERE,
);

/// A pod of another node: nobody looks for its containers here, and each that starts anew would be a change.
const POD_ELSEWHERE: Keep = Keep::Fields(&[
    ("metadata", METADATA),
    ("spec", POD_SPEC),
    ("status", POD_STATUS_ELSEWHERE),
]);

const POD_STATUS_ELSEWHERE: Keep = Keep::Fields(&[
    ("conditions", CONDITIONS),
    ("phase", Keep::All),
    ("podIP", Keep::All),
    ("podIPs", Keep::All),
]);

const NODE: Keep = Keep::Fields(&[
    ("metadata", METADATA),
    ("status", Keep::Fields(&[("addresses", Keep::All)])),
]);

const NAMESPACE: Keep = Keep::Fields(&[("metadata", METADATA)]);

const SERVICE: Keep = Keep::Fields(&[
    ("metadata", METADATA),
    ("spec", Keep::All),
    ("status", Keep::Fields(&[("loadBalancer", Keep::All)])),
]);

const ENDPOINT_SLICE: Keep = Keep::Fields(&[
    ("metadata", METADATA),
    ("addressType", Keep::All),
    (
        "endpoints",
        Keep::Fields(&[
            ("addresses", Keep::All),
            ("conditions", Keep::All),
            ("deprecatedTopology", Keep::All),
            ("hints", Keep::All),
            ("hostname", Keep::All),
            ("nodeName", Keep::All),
            (
                "targetRef",
                Keep::Fields(&[
                    ("kind", Keep::All),
                    ("namespace", Keep::All),
                    ("name", Keep::All),
                ]),
            ),
            ("zone", Keep::All),
        ]),
    ),
    ("ports", Keep::All),
]);

/// All others. Their status is written here, not read.
const OTHER: Keep = Keep::Fields(&[("metadata", OTHER_METADATA), ("spec", Keep::All)]);

const OTHER_METADATA: Keep = Keep::More(
    &[
        // The older of two routes wins.
        ("creationTimestamp", Keep::All),
        // Repeated in the status.
        ("generation", Keep::All),
    ],
    &METADATA,
);

/// The same with what it takes to write their status.
const WRITTEN: Keep = Keep::More(
    &[("metadata", WRITTEN_METADATA), ("status", Keep::All)],
    &OTHER,
);

const WRITTEN_METADATA: Keep = Keep::More(&[("resourceVersion", Keep::All)], &OTHER_METADATA);

/// A node with what it takes to write its taints.
const TAINTED_NODE: Keep = Keep::Fields(&[
    (
        "metadata",
        Keep::Fields(&[
            ("name", Keep::All),
            ("uid", Keep::All),
            ("resourceVersion", Keep::All),
            ("labels", Keep::All),
        ]),
    ),
    ("spec", Keep::Fields(&[("taints", Keep::All)])),
    ("status", Keep::Fields(&[("addresses", Keep::All)])),
]);

/// Of a config map, the certificates: the rest is somebody's own.
const CONFIG_MAP: Keep = Keep::Fields(&[
    (
        "metadata",
        Keep::Fields(&[("name", Keep::All), ("namespace", Keep::All)]),
    ),
    ("data", Keep::Fields(&[("ca.crt", Keep::All)])),
]);

impl Keep {
    /// Returns what `role` keeps of the objects of a set.
    pub(super) fn of(kind: Kind, scope: Scope, role: &Role) -> &'static Self {
        match (role, kind, scope) {
            (Role::Controller { .. }, Kind::Node, _) => &TAINTED_NODE,
            (Role::Controller { .. }, kind, _) if has_status(kind) => &WRITTEN,
            (_, Kind::Pod, Scope::Elsewhere) => &POD_ELSEWHERE,
            (_, kind, _) => Self::of_agent(kind),
        }
    }

    fn of_agent(kind: Kind) -> &'static Self {
        match kind {
            Kind::Pod => &POD,
            Kind::Node => &NODE,
            Kind::Namespace => &NAMESPACE,
            Kind::Service => &SERVICE,
            Kind::EndpointSlice => &ENDPOINT_SLICE,
            Kind::NetworkPolicy
            | Kind::AuthorizationPolicy
            | Kind::HTTPRoute
            | Kind::GRPCRoute
            | Kind::TLSRoute
            | Kind::TCPRoute
            | Kind::UDPRoute
            | Kind::BackendTLSPolicy
            | Kind::ReferenceGrant
            | Kind::XBackendTrafficPolicy
            | Kind::TrafficPolicy
            | Kind::XMesh => &OTHER,
            Kind::ConfigMap => &CONFIG_MAP,
        }
    }

    fn field(&self, name: &str) -> Option<&Self> {
        match self {
            Self::All => Some(&Self::All),
            Self::Fields(fields) => among(fields, name),
            Self::More(fields, others) => among(fields, name).or_else(|| others.field(name)),
            Self::OwnBut(others) => {
                let is_kept = name.starts_with(known::PREFIX) && !others.contains(&name);
                is_kept.then_some(&Self::All)
            }
        }
    }
}

fn among(fields: &'static [(&'static str, Keep)], name: &str) -> Option<&'static Keep> {
    let (_, keep) = fields.iter().find(|(field, _)| *field == name)?;
    Some(keep)
}

/// Returns whether the controller writes the status of objects of this kind.
fn has_status(kind: Kind) -> bool {
    let is_policy = matches!(
        kind,
        Kind::BackendTLSPolicy | Kind::XBackendTrafficPolicy | Kind::TrafficPolicy
    );
    kind.route().is_some() || is_policy || kind == Kind::XMesh
}

/// Returns the JSON text of what is kept of an object.
pub(super) fn keep(object: &RawValue, keep: &Keep) -> serde_json::Result<String> {
    let mut out = Vec::with_capacity(1024);
    let mut json = serde_json::Deserializer::from_str(object.get());
    let copy = Copy {
        keep,
        out: &mut out,
    };
    copy.deserialize(&mut json)?;
    // Kept for as long as the object is there.
    out.shrink_to_fit();
    String::from_utf8(out).map_err(serde::de::Error::custom)
}

/// Copies a value, less what is not kept.
struct Copy<'k, 'o> {
    keep: &'k Keep,
    out: &'o mut Vec<u8>,
}

impl Copy<'_, '_> {
    fn scalar<E: serde::de::Error>(self, value: impl serde::Serialize) -> Result<(), E> {
        serde_json::to_writer(self.out, &value).map_err(E::custom)
    }
}

impl<'de> DeserializeSeed<'de> for Copy<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Copy<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        self.scalar(())
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<(), E> {
        self.scalar(value)
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<(), E> {
        self.scalar(value)
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<(), E> {
        self.scalar(value)
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<(), E> {
        self.scalar(value)
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<(), E> {
        self.scalar(value)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        self.out.push(b'[');
        let mut end = self.out.len();
        loop {
            if self.out.len() > end {
                self.out.push(b',');
            }
            end = self.out.len();
            let item = Copy {
                keep: self.keep,
                out: self.out,
            };
            if seq.next_element_seed(item)?.is_none() {
                break;
            }
        }
        if self.out.last() == Some(&b',') {
            self.out.pop();
        }
        self.out.push(b']');
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        self.out.push(b'{');
        let mut is_first = true;
        while let Some(name) = map.next_key::<String>()? {
            let Some(keep) = self.keep.field(&name) else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            if !is_first {
                self.out.push(b',');
            }
            is_first = false;
            serde_json::to_writer(&mut *self.out, &name).map_err(serde::de::Error::custom)?;
            self.out.push(b':');
            let out = &mut *self.out;
            map.next_value_seed(Copy { keep, out })?;
        }
        self.out.push(b'}');
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::config::key::{Key, Place};
    use crate::config::node::Unplaced;
    use crate::config::object::{self, Outcome};

    fn agent() -> Role {
        let node = String::new();
        Role::Agent { node }
    }

    fn kept(text: &str, of: &Keep) -> String {
        keep(serde_json::from_str(text).unwrap(), of).unwrap()
    }

    #[test]
    fn everything_is_copied_as_it_stands() {
        let text = r#"{"a":[],"b":[1,-2,2.5,null,true,[{}]],"c":{"d":"ö\n\"x\""},"e":""}"#;
        assert_eq!(kept(text, &Keep::All), text);
    }

    #[test]
    fn what_nobody_reads_is_left_out_at_every_depth() {
        let text = r#"{"kind":"Pod","metadata":{"name":"a","managedFields":[{"x":1}],
            "annotations":{"cni":"x","kubernetes.io/config.mirror":"aa","underpass.dev/weight":"3","underpass.dev/netns":"/run/netns/another"},"resourceVersion":"7"},
            "spec":{"volumes":[1],"containers":[{"env":[],"ports":[{"containerPort":80}]},{"image":"i"}]},
            "status":{"conditions":[{"type":"Ready","lastTransitionTime":"t","status":"True"}],
            "containerStatuses":[{"containerID":"containerd://a","restartCount":3}]}}"#;
        let (own, mirror) = (
            r#""underpass.dev/weight":"3""#,
            r#""kubernetes.io/config.mirror":"aa","#,
        );
        let head = |annotations: &str| {
            format!(r#"{{"metadata":{{"name":"a","annotations":{{{annotations}}}}},"#)
        };
        let common = r#""spec":{"containers":[{"ports":[{"containerPort":80}]},{}]},"status":{"conditions":[{"type":"Ready","status":"True"}]"#;
        let containers = r#","containerStatuses":[{"containerID":"containerd://a"}]"#;
        let here = kept(text, Keep::of(Kind::Pod, Scope::Here, &agent()));
        let begin = head(&format!("{mirror}{own}"));
        assert_eq!(here, format!("{begin}{common}{containers}}}}}"));
        let elsewhere = kept(text, Keep::of(Kind::Pod, Scope::Elsewhere, &agent()));
        assert_eq!(elsewhere, format!("{}{common}}}}}", head(own)));
    }

    #[test]
    fn of_a_config_map_nothing_but_certificates_is_kept() {
        let text = r#"{"kind":"ConfigMap","metadata":{"name":"ca","namespace":"shop","annotations":{"underpass.dev/x":"y"}},
            "binaryData":{"a":"eA=="},"data":{"settings":"password: 1","ca.crt":"PEM"}}"#;
        let expected = r#"{"metadata":{"name":"ca","namespace":"shop"},"data":{"ca.crt":"PEM"}}"#;
        assert_eq!(kept(text, Keep::of_agent(Kind::ConfigMap)), expected);
    }

    #[test]
    fn what_is_no_mapping_is_copied_too() {
        // `config` says what is wrong with it.
        let text = r#"{"metadata":{"labels":3,"annotations":"x"},"spec":[null]}"#;
        assert_eq!(kept(text, Keep::of_agent(Kind::Pod)), text);
    }

    /// Returns what an object comes to.
    fn read(kind: Kind, text: &str) -> Outcome {
        let Unplaced(node) = serde_json::from_str(text).unwrap();
        let key = Key {
            kind,
            namespace: String::new(),
            name: String::new(),
        };
        object::read_api(Place::of_api(&key), kind, &node).outcome
    }

    #[test]
    fn whatever_is_read_of_an_object_is_kept() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/config");
        let mut compared = BTreeMap::<&str, usize>::new();
        for dir in ["valid", "real", "services", "policies", "routes"] {
            for file in fs::read_dir(fixtures.join(dir)).unwrap() {
                let text = fs::read_to_string(file.unwrap().path()).unwrap();
                let Ok(documents) = serde_saphyr::from_multiple::<serde_json::Value>(&text) else {
                    continue;
                };
                for mut object in documents {
                    let kind = object["kind"].as_str().and_then(Kind::of_word);
                    let Some(kind) = kind else { continue };
                    // Left out on purpose.
                    if let Some(annotations) = object["metadata"]["annotations"].as_object_mut() {
                        let places = [known::CGROUP, known::NETNS, known::PID];
                        annotations.retain(|name, _| !places.contains(&name.as_str()));
                    }
                    let text = object.to_string();
                    let whole = read(kind, &text);
                    for role in [
                        agent(),
                        Role::Controller {
                            namespace: String::new(),
                        },
                    ] {
                        let kept = kept(&text, Keep::of(kind, Scope::Here, &role));
                        assert_eq!(read(kind, &kept), whole, "{text}");
                    }
                    if matches!(whole, Outcome::Valid(..)) {
                        *compared.entry(kind.word()).or_default() += 1;
                    }
                }
            }
        }
        for kind in [
            "Pod",
            "Namespace",
            "Node",
            "Service",
            "EndpointSlice",
            "HTTPRoute",
        ] {
            assert!(compared.contains_key(kind), "{compared:?}");
        }
    }
}
