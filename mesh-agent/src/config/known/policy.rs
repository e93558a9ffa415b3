//! Fields of `NetworkPolicy` (Kubernetes 1.36) and `AuthorizationPolicy` (this project).
#![forbid(unsafe_code)]

/// `NetworkPolicySpec`.
pub(crate) const NETWORK_SPEC: &[&str] = &["egress", "ingress", "podSelector", "policyTypes"];
/// `NetworkPolicyIngressRule`.
pub(crate) const INGRESS_RULE: &[&str] = &["from", "ports"];
/// `NetworkPolicyEgressRule`.
pub(crate) const EGRESS_RULE: &[&str] = &["ports", "to"];
/// `NetworkPolicyPeer`.
pub(crate) const NETWORK_PEER: &[&str] = &["ipBlock", "namespaceSelector", "podSelector"];
/// `IPBlock`.
pub(crate) const IP_BLOCK: &[&str] = &["cidr", "except"];
/// `NetworkPolicyPort`, and the ports of an `AuthorizationPolicy`.
pub(crate) const POLICY_PORT: &[&str] = &["endPort", "port", "protocol"];
/// `LabelSelector`.
pub(crate) const SELECTOR: &[&str] = &["matchExpressions", "matchLabels"];
/// `LabelSelectorRequirement`.
pub(crate) const REQUIREMENT: &[&str] = &["key", "operator", "values"];

/// `spec` of an `AuthorizationPolicy`.
pub(crate) const AUTHORIZATION_SPEC: &[&str] = &["action", "mode", "rules", "targetSelector"];
/// One of its rules.
pub(crate) const AUTHORIZATION_RULE: &[&str] = &["from", "name", "ports"];
/// One source of a rule.
pub(crate) const AUTHORIZATION_PEER: &[&str] =
    &["block", "except", "namespaces", "pods", "serviceAccounts"];
