//! The incremental resolver ends where one that starts anew ends, and does not do all of its work again.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::super::Resolver;
use crate::config::content::Content;
use crate::model::workload::Acceleration;

/// An object, in the few variations that make a difference to others.
#[derive(Clone, Debug)]
enum Doc {
    Pod {
        name: u8,
        address: u8,
        app: u8,
        node: u8,
        ready: Option<bool>,
        variation: u8,
    },
    Service {
        name: u8,
        address: u8,
        selects: Option<u8>,
        named: bool,
        node_port: Option<u8>,
    },
    Slice {
        name: u8,
        service: u8,
        pods: Vec<(u8, bool)>,
    },
    Node {
        name: u8,
        zone: u8,
    },
    Namespace {
        labelled: bool,
        off: bool,
    },
    Policy {
        name: u8,
        app: u8,
    },
    Invalid {
        kind: &'static str,
        name: u8,
    },
    Broken,
}

impl Doc {
    fn text(&self) -> String {
        match self {
            Self::Pod {
                name,
                address,
                app,
                node,
                ready,
                variation,
            } => {
                let ready = ready.map_or_else(String::new, |ready| {
                    let word = if ready { "True" } else { "False" };
                    format!(", conditions: [{{type: Ready, status: '{word}'}}]")
                });
                let (annotation, deleted, phase) = match variation {
                    0 => (", annotations: {underpass.dev/weight: '7'}", "", ""),
                    1 => ("", ", deletionTimestamp: '2026-11-21T00:00:00Z'", ""),
                    2 => ("", "", ", phase: Succeeded"),
                    _ => ("", "", ""),
                };
                format!(
                    "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: p{name}, labels: {{app: a{app}, all: x}}{annotation}{deleted}}}\nspec: {{nodeName: m{node}, containers: [{{name: c, ports: [{{name: web, containerPort: 80{app}}}]}}]}}\nstatus: {{podIPs: [{{ip: 10.0.0.{address}}}]{ready}{phase}}}\n"
                )
            }
            Self::Service {
                name,
                address,
                selects,
                named,
                node_port,
            } => {
                let selector = selects.map_or_else(String::new, |app| {
                    format!(", selector: {{app: a{app}, all: x}}")
                });
                let target = if *named { ", targetPort: web" } else { "" };
                let node_port =
                    node_port.map_or_else(String::new, |port| format!(", nodePort: 3000{port}"));
                format!(
                    "---\napiVersion: v1\nkind: Service\nmetadata: {{name: s{name}}}\nspec: {{type: NodePort, clusterIP: 10.0.0.{address}, ports: [{{port: 80{target}{node_port}}}]{selector}}}\n"
                )
            }
            Self::Slice {
                name,
                service,
                pods,
            } => {
                let endpoints = pods.iter().map(|(pod, ready)| {
                    format!("  - {{addresses: [10.0.1.{pod}], conditions: {{ready: {ready}}}, nodeName: m{}, targetRef: {{kind: Pod, name: p{pod}}}}}\n", pod % 3)
                });
                let endpoints: String = endpoints.collect();
                format!(
                    "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: e{name}, labels: {{kubernetes.io/service-name: s{service}}}}}\naddressType: IPv4\nports: [{{port: 80}}]\nendpoints:\n{endpoints}"
                )
            }
            Self::Node { name, zone } => format!(
                "---\napiVersion: v1\nkind: Node\nmetadata: {{name: m{name}, labels: {{topology.kubernetes.io/zone: z{zone}}}}}\n"
            ),
            Self::Namespace { labelled, off } => {
                let team = if *labelled { "team: x, " } else { "" };
                let mode = if *off { "off" } else { "on" };
                format!(
                    "---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: default, labels: {{{team}underpass.dev/acceleration: {mode}}}}}\n"
                )
            }
            Self::Policy { name, app } => format!(
                "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: n{name}}}\nspec: {{podSelector: {{matchLabels: {{app: a{app}}}}}}}\n"
            ),
            Self::Invalid { kind, name } => invalid(kind, *name),
            Self::Broken => "---\n{\n".to_owned(),
        }
    }
}

fn invalid(kind: &str, name: u8) -> String {
    let (version, letter) = match kind {
        "Pod" => ("v1", "p"),
        "Service" => ("v1", "s"),
        _ => ("discovery.k8s.io/v1", "e"),
    };
    format!(
        "---\napiVersion: {version}\nkind: {kind}\nmetadata: {{name: {letter}{name}}}\nextra: 1\n"
    )
}

fn doc() -> impl Strategy<Value = Doc> {
    let small = 0u8..4;
    let ready = prop::option::of(any::<bool>());
    prop_oneof![
        6 => (small.clone(), 1u8..7, small.clone(), small.clone(), ready, 0u8..6).prop_map(
            |(name, address, app, node, ready, variation)| Doc::Pod { name, address, app, node, ready, variation }),
        5 => (small.clone(), 5u8..10, prop::option::of(small.clone()), any::<bool>(), prop::option::of(1u8..4)).prop_map(
            |(name, address, selects, named, node_port)| Doc::Service { name, address, selects, named, node_port }),
        4 => (small.clone(), small.clone(), prop::collection::vec((small.clone(), any::<bool>()), 0..4)).prop_map(
            |(name, service, pods)| Doc::Slice { name, service, pods }),
        2 => (small.clone(), small.clone()).prop_map(|(name, zone)| Doc::Node { name, zone }),
        1 => (any::<bool>(), any::<bool>()).prop_map(|(labelled, off)| Doc::Namespace { labelled, off }),
        1 => (small.clone(), small.clone()).prop_map(|(name, app)| Doc::Policy { name, app }),
        2 => (prop::sample::select(vec!["Pod", "Service", "EndpointSlice"]), small).prop_map(
            |(kind, name)| Doc::Invalid { kind, name }),
        1 => Just(Doc::Broken),
    ]
}

type Files = BTreeMap<u8, Vec<Doc>>;

/// A change of one file: its new documents, or none for a file that is removed.
type Edit = (u8, Option<Vec<Doc>>);

fn edit() -> impl Strategy<Value = Edit> {
    let docs = prop::collection::vec(doc(), 0..5);
    (0u8..4, prop::option::weighted(0.9, docs))
}

fn name(file: u8) -> String {
    format!("{file}.yaml")
}

fn text(docs: &[Doc]) -> String {
    docs.iter().map(Doc::text).collect()
}

/// Everything that the outcome is, as text.
fn outcome(resolver: &Resolver) -> String {
    format!("{:#?}\n{:#?}", resolver.resolved(), resolver.problems())
}

proptest! {
    // Each is a dozen configurations resolved three times over.
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn what_follows_from_the_objects_in_force_is_the_same_however_they_came(edits in prop::collection::vec(edit(), 1..12)) {
        let mut resolver = Resolver::new(Acceleration::Auto);
        let mut files = Files::new();
        let mut contents: BTreeMap<u8, Arc<Content>> = BTreeMap::new();
        for (file, docs) in edits {
            match docs {
                Some(docs) => {
                    // From what the file held before, as the agent reads it.
                    let before = contents.get(&file).map(|content| &**content);
                    let content = Content::parse(&name(file), text(&docs).as_bytes(), before);
                    prop_assert_eq!(&content.items, &Content::parse(&name(file), text(&docs).as_bytes(), None).items);
                    contents.insert(file, Arc::new(content));
                    files.insert(file, docs);
                }
                None => {
                    contents.remove(&file);
                    files.remove(&file);
                }
            }
            let now: Vec<Arc<Content>> = contents.values().cloned().collect();
            let before = format!("{:?}", resolver.resolved());
            let changed = resolver.update(Ok(&now));
            let after = format!("{:?}", resolver.resolved());
            prop_assert!(changed || before == after);
            // Every object decided on anew, and every service joined anew, from what is in force: nothing was missed.
            let mut all = resolver.again();
            all.update(Ok(&now));
            let (incremental, anew) = (outcome(&resolver), outcome(&all));
            let differs = incremental.lines().zip(anew.lines()).find(|(one, other)| one != other);
            prop_assert!(incremental == anew, "{differs:?}");
        }
        // Once nothing is wrong, history does not count either: as from nothing.
        if resolver.problems().is_empty() {
            let mut fresh = Resolver::new(Acceleration::Auto);
            let now: Vec<Arc<Content>> = contents.values().cloned().collect();
            fresh.update(Ok(&now));
            prop_assert_eq!(outcome(&resolver), outcome(&fresh));
        }
    }
}

/// The manifests of services by file, each with a slice of ten endpoints.
fn many(file: usize, ready: bool) -> String {
    let mut text = String::new();
    for service in file * 20..(file + 1) * 20 {
        let (high, low) = (service / 256, service % 256);
        text += &format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: s{service}}}\nspec: {{clusterIP: 10.9.{high}.{low}, ports: [{{port: 80}}]}}\n---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: s{service}, labels: {{kubernetes.io/service-name: s{service}}}}}\naddressType: IPv4\nports: [{{port: 80}}]\nendpoints:\n"
        );
        for endpoint in 0..10 {
            text += &format!(
                "  - {{addresses: [10.{endpoint}.{high}.{low}], conditions: {{ready: {ready}}}, nodeName: n1}}\n"
            );
        }
    }
    text
}

#[test]
fn a_change_costs_a_small_part_of_all() {
    const FILES: usize = 50;
    let parse = |file: usize, ready| {
        let name = format!("{file:03}.yaml");
        Arc::new(Content::parse(&name, many(file, ready).as_bytes(), None))
    };
    let mut contents: Vec<_> = (0..FILES).map(|file| parse(file, true)).collect();
    let mut resolver = Resolver::new(Acceleration::Auto);
    let start = Instant::now();
    assert!(resolver.update(Ok(&contents)));
    let all = start.elapsed();
    let before = resolver.resolved().clone();
    // The quickest of several: whoever else runs on the machine only ever makes it slower.
    let mut one = Duration::MAX;
    for round in 0..5 {
        contents[7] = parse(7, round % 2 == 1);
        let start = Instant::now();
        assert!(resolver.update(Ok(&contents)));
        one = one.min(start.elapsed());
    }
    println!("all {all:?}, one file {one:?}");
    assert!(one * 20 < all, "one file of {FILES} {one:?}, all {all:?}");
    // And what did not change is the same object still.
    let now = resolver.resolved();
    assert_eq!(now.services.len(), FILES * 20);
    let kept = now.services.iter().filter(|(name, service)| {
        let before = &before.services[*name];
        Arc::ptr_eq(before, service)
    });
    assert_eq!(kept.count(), (FILES - 1) * 20);
}
