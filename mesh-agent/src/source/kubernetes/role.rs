//! Who watches, which decides what.
#![forbid(unsafe_code)]

/// Who watches.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Role {
    /// The agent of a node.
    Agent {
        /// The node's name.
        node: String,
    },
    /// The controller of the cluster. It has no use for endpoints, nor for pods other than the agents'.
    Controller {
        /// Where the agents' pods are.
        namespace: String,
    },
}

impl Role {
    /// Returns whether it is the controller.
    pub(super) fn is_controller(&self) -> bool {
        matches!(self, Self::Controller { .. })
    }
}
