//! Pods, agents and measurements for tests, benchmarks and the demo, on one machine and without Kubernetes.
//!
//! A [`Node`] is a network namespace with a bridge, and a cgroup. Its [`Pod`]s are network namespaces and cgroups of their
//! own, joined to that bridge. An [`Agent`] is the real `node-agent` on that node. Everything has a name of its own, so
//! that any number of nodes can stand side by side, and goes away with the node: when it is dropped, on Ctrl-C, and at
//! the latest when the next run starts.
#![forbid(unsafe_code)]

pub mod agent;
pub mod apiserver;
pub mod bytes;
pub mod cgroup;
pub mod cluster;
mod command;
pub mod conformance;
pub mod controller;
pub mod cpu;
pub mod kubenode;
pub mod kubepod;
pub mod machine;
pub mod manifest;
pub mod memory;
mod mounts;
mod netns;
pub mod node;
pub mod pod;
pub mod process;
pub mod remote;
mod scope;
pub mod tables;
pub mod wait;

pub use agent::Agent;
pub use apiserver::ApiServer;
pub use kubenode::KubeNode;
pub use kubepod::KubePod;
pub use machine::require_root;
pub use node::Node;
pub use pod::Pod;
pub use process::Running;
pub use remote::Remote;
pub use wait::{wait_for, wait_for_some};
