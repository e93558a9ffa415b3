//! Status of Gateway API's objects: plain data, in the words and shapes that Kubernetes keeps.
//!
//! It says what the agents of the mesh do with an object. Times of transition are added by who writes it.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Who writes these statuses: `controllerName` in `parents[]` and `ancestors[]`.
pub const CONTROLLER: &str = "underpass.dev/mesh";

/// Statuses of all objects that have one, by object. Shared by pointer: what did not change keeps its `Arc`.
pub type Statuses = BTreeMap<ObjectName, Arc<ObjectStatus>>;

/// What tells an object from all others.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct ObjectName {
    /// Its kind.
    pub kind: String,
    /// Kubernetes namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// Status of one object.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ObjectStatus {
    /// The object.
    pub object: ObjectName,
    /// `metadata.generation`, where it has one.
    pub generation: Option<i64>,
    /// `parents[]` of a route, `ancestors[]` of a policy: one for each reference to a service.
    pub parents: Vec<ParentStatus>,
    /// Findings that stand against parts of it, for people.
    pub problems: Vec<String>,
}

/// `RouteParentStatus`, `PolicyAncestorStatus`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ParentStatus {
    /// `parentRef`, `ancestorRef`: the reference as it stands in the object.
    pub parent: ParentReference,
    /// `controllerName`.
    pub controller_name: String,
    /// `conditions`, ordered by type.
    pub conditions: Vec<Condition>,
}

/// `ParentReference`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ParentReference {
    /// `group`: empty for services.
    pub group: String,
    /// `kind`.
    pub kind: String,
    /// `namespace`.
    pub namespace: String,
    /// `name`.
    pub name: String,
    /// `sectionName`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub section_name: Option<String>,
    /// `port`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

/// `metav1.Condition`, less its time.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// `type`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `status`: `True`, `False` or `Unknown`.
    pub status: String,
    /// `reason`.
    pub reason: String,
    /// `message`.
    pub message: String,
    /// `observedGeneration`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

impl Condition {
    /// Returns whether it holds.
    pub fn is_true(&self) -> bool {
        self.status == "True"
    }
}

impl ParentStatus {
    /// Returns the condition of this type.
    pub fn condition(&self, kind: &str) -> Option<&Condition> {
        self.conditions.iter().find(|it| it.kind == kind)
    }
}
