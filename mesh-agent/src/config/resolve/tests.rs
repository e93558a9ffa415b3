//! Whatever follows upon whatever, the outcome is valid, and nothing is lost or kept without a reason.
#![forbid(unsafe_code)]

mod hostnames;
mod joined;
mod mesh;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;

use super::Resolver;
use crate::config::content::Content;
use crate::model::workload::Acceleration;

/// A document: a pod by number with addresses by number, perhaps spoilt.
#[derive(Clone, Debug)]
struct Doc {
    name: u8,
    addresses: Vec<u8>,
    /// Whether it is being deleted.
    terminating: bool,
    spoilt: Spoilt,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Spoilt {
    Not,
    /// The object is not valid, but its name can be read.
    Object,
    /// Nobody can tell what it was.
    Text,
}

impl Doc {
    fn text(&self) -> String {
        let addresses: Vec<String> = self
            .addresses
            .iter()
            .map(|n| format!("{{ip: 10.0.0.{n}}}"))
            .collect();
        let (name, addresses) = (self.name, addresses.join(", "));
        match self.spoilt {
            Spoilt::Text => "---\n{\n".to_owned(),
            Spoilt::Object | Spoilt::Not => {
                let extra = if self.spoilt == Spoilt::Object {
                    "extra: 1\n"
                } else {
                    ""
                };
                let deleted = match self.terminating {
                    true => ", deletionTimestamp: x",
                    false => "",
                };
                format!(
                    "---\napiVersion: v1\nkind: Pod\n{extra}metadata: {{name: p{name}{deleted}}}\nstatus: {{podIPs: [{addresses}]}}\n"
                )
            }
        }
    }
}

fn doc() -> impl Strategy<Value = Doc> {
    let spoilt =
        prop_oneof![6 => Just(Spoilt::Not), 2 => Just(Spoilt::Object), 1 => Just(Spoilt::Text)];
    let addresses = prop::collection::btree_set(1u8..6, 1..3);
    let terminating = prop::bool::weighted(0.3);
    let parts = (0u8..5, addresses, terminating, spoilt);
    parts.prop_map(|(name, addresses, terminating, spoilt)| Doc {
        name,
        addresses: addresses.into_iter().collect(),
        terminating,
        spoilt,
    })
}

/// Files by number with their documents.
type Files = BTreeMap<u8, Vec<Doc>>;

fn contents(files: &Files) -> Vec<Arc<Content>> {
    let one = |(file, docs): (&u8, &Vec<Doc>)| {
        let text: String = docs.iter().map(Doc::text).collect();
        Arc::new(Content::parse(
            &format!("{file}.yaml"),
            text.as_bytes(),
            None,
        ))
    };
    files.iter().map(one).collect()
}

fn names(files: &Files) -> BTreeSet<String> {
    files
        .values()
        .flatten()
        .map(|doc| format!("p{}", doc.name))
        .collect()
}

proptest! {
    #[test]
    fn every_step_is_valid(steps in prop::collection::vec(prop::collection::btree_map(0u8..3, prop::collection::vec(doc(), 0..4), 0..3), 1..8)) {
        let mut resolver = Resolver::new(Acceleration::Auto);
        for files in &steps {
            let contents = contents(files);
            let before = resolver.resolved().clone();
            resolver.update(Ok(&contents));
            let next = resolver.resolved().clone();
            let mut addresses = BTreeSet::new();
            for workload in &next.workloads {
                for address in &workload.addresses {
                    prop_assert!(addresses.insert(*address), "{address} twice in {:?}", next.workloads);
                }
            }
            // What was in force and is still claimed by name is still in force, in one version or another.
            let now: BTreeSet<&str> = next.workloads.iter().map(|workload| workload.name.name.as_str()).collect();
            let readable = names(files);
            let was: BTreeSet<&str> = before.workloads.iter().map(|workload| workload.name.name.as_str()).collect();
            for name in &was {
                let claimed = files.values().flatten().any(|doc| doc.spoilt != Spoilt::Text && format!("p{}", doc.name) == **name);
                prop_assert!(!claimed || now.contains(name), "{name} was lost");
            }
            // Nothing comes from nowhere.
            for name in &now {
                prop_assert!(was.contains(name) || readable.contains(*name), "{name} came from nowhere");
            }
            // Where every document can be told, what is in none of them is gone.
            if contents.iter().all(|content| content.complete) {
                for name in &now {
                    prop_assert!(readable.contains(*name), "{name} stayed without a manifest");
                }
            }
            // The same again changes nothing.
            let again: Vec<Arc<Content>> = contents.iter().map(|content| Arc::new(Content::clone(content))).collect();
            prop_assert!(!resolver.update(Ok(&again)));
            // Nor does it matter how it came to this.
            let fresh = resolver.again();
            prop_assert_eq!(&fresh.resolved().workloads, &next.workloads);
        }
    }
}
