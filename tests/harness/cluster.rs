//! Manifests of a large cluster, as somebody would keep them: for each namespace a file of services and one of policies.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::node::Node;
use crate::pod::Pod;

/// The port that each service is dialled at.
pub const PORT: u16 = 80;
/// The port that its endpoints listen on.
const TARGET: u16 = 8080;
/// Kinds of pods in each namespace, which policies tell from each other.
const APPS: usize = 20;
/// Nodes that endpoints and pods are on.
const NODES: usize = 500;

/// How large a cluster is.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Namespaces, over which everything is spread.
    pub namespaces: usize,
    /// Services.
    pub services: usize,
    /// Endpoints of each service.
    pub endpoints: usize,
    /// Network policies.
    pub policies: usize,
    /// Pods on other nodes.
    pub pods_elsewhere: usize,
}

/// The manifests of a cluster, in the directory that a node's agent reads.
#[derive(Debug)]
pub struct Cluster {
    size: Size,
    manifests: PathBuf,
    draft: PathBuf,
    /// For services whose first endpoint was replaced, how often.
    replaced: BTreeMap<usize, u32>,
}

impl Cluster {
    /// Writes all manifests of a cluster of this size; `pods` are on the agent's own node.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(node: &Node, size: Size, pods: &[Pod]) -> Result<Self> {
        let cluster = Self {
            size,
            manifests: node.manifests(),
            draft: node.files().join("cluster.draft"),
            replaced: BTreeMap::new(),
        };
        for namespace in 0..size.namespaces {
            let services = cluster.services_of(namespace)?;
            cluster.put(&services_file(namespace), &services)?;
            let mut text = String::new();
            for number in (namespace..size.policies).step_by(size.namespaces) {
                policy(&mut text, number, namespace, size.namespaces)?;
            }
            cluster.put(&format!("ns{namespace}-policies.yaml"), &text)?;
        }
        let mut text = String::new();
        for number in 0..size.pods_elsewhere {
            let address = Ipv4Addr::from_bits(0x0a40_0001 + bits(number)?);
            let spec = format!("spec: {{nodeName: node-{}}}\n", number % NODES);
            pod(
                &mut text,
                number,
                size.namespaces,
                "elsewhere",
                &spec,
                address,
            )?;
        }
        cluster.put("pods-elsewhere.yaml", &text)?;
        let mut text = String::new();
        for (number, local) in pods.iter().enumerate() {
            let path = local.netns_path();
            let annotations = format!(
                "  annotations:\n    underpass.dev/netns: {}\n    underpass.dev/acceleration: \"off\"\n",
                path.display()
            );
            pod(
                &mut text,
                number,
                size.namespaces,
                "here",
                &annotations,
                local.v4(),
            )?;
        }
        cluster.put("pods-here.yaml", &text)?;
        Ok(cluster)
    }

    /// Gives a service another first endpoint: writes its namespace's file beside the directory, and returns what puts it in its
    /// place.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn replace_endpoint(&mut self, service: usize) -> Result<Edit> {
        *self.replaced.entry(service).or_default() += 1;
        let namespace = service % self.size.namespaces;
        fs::write(&self.draft, self.services_of(namespace)?)
            .context("failed to write a manifest")?;
        Ok(Edit {
            draft: self.draft.clone(),
            place: self.manifests.join(services_file(namespace)),
        })
    }

    /// Returns the number of files and of bytes of all manifests.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn extent(&self) -> Result<(usize, u64)> {
        let mut extent = (0, 0);
        for entry in fs::read_dir(&self.manifests).context("failed to list the manifests")? {
            let metadata = entry.and_then(|entry| entry.metadata());
            extent.0 += 1;
            extent.1 += metadata.context("failed to look at a manifest")?.len();
        }
        Ok(extent)
    }

    /// Returns the addresses of a service's endpoints, as they are now.
    ///
    /// # Errors
    /// When the number is none of a service.
    pub fn endpoints(&self, service: usize) -> Result<Vec<Ipv4Addr>> {
        let own = |index: usize| {
            let first = 0x0a80_0001 + bits(service * self.size.endpoints)?;
            Ok(Ipv4Addr::from_bits(first + bits(index)?))
        };
        let mut all = (0..self.size.endpoints)
            .map(own)
            .collect::<Result<Vec<_>>>()?;
        if let (Some(times), Some(first)) = (self.replaced.get(&service), all.first_mut()) {
            // Of 100.64.0.0/10, 64 for each service.
            *first = Ipv4Addr::from_bits(0x6440_0000 + bits(service)? * 64 + times % 64);
        }
        Ok(all)
    }

    fn services_of(&self, namespace: usize) -> Result<String> {
        let mut text = String::new();
        for number in (namespace..self.size.services).step_by(self.size.namespaces) {
            service(&mut text, number, namespace, &self.endpoints(number)?)?;
        }
        Ok(text)
    }

    fn put(&self, name: &str, text: &str) -> Result<()> {
        let path = self.manifests.join(name);
        fs::write(&path, text).with_context(|| format!("failed to write `{}`", path.display()))
    }
}

/// A manifest that lies ready.
#[derive(Debug)]
pub struct Edit {
    draft: PathBuf,
    place: PathBuf,
}

impl Edit {
    /// Puts it in its place, at one stroke.
    ///
    /// # Errors
    /// When the file cannot be moved.
    pub fn apply(self) -> Result<()> {
        let Self { draft, place } = self;
        let context = |place: &Path| format!("failed to write `{}`", place.display());
        fs::rename(draft, &place).with_context(|| context(&place))
    }
}

/// Returns the address of a service.
///
/// # Errors
/// When the number is none of a service.
pub fn address(service: usize) -> Result<Ipv4Addr> {
    Ok(Ipv4Addr::from_bits(0xac14_0001 + bits(service)?))
}

fn bits(number: usize) -> Result<u32> {
    u32::try_from(number).context("a number of a service or an endpoint is too large")
}

fn services_file(namespace: usize) -> String {
    format!("ns{namespace}-services.yaml")
}

/// A service and its slice, as `kubectl get -o yaml` prints what of them matters.
fn service(
    text: &mut String,
    number: usize,
    namespace: usize,
    endpoints: &[Ipv4Addr],
) -> Result<()> {
    let address = address(number)?;
    write!(
        text,
        "---\napiVersion: v1\nkind: Service\nmetadata:\n  name: s{number}\n  namespace: ns{namespace}\n  labels:\n    app: s{number}\n\
         spec:\n  clusterIP: {address}\n  clusterIPs:\n  - {address}\n  ports:\n  - name: http\n    port: {PORT}\n    protocol: TCP\n    \
         targetPort: {TARGET}\n  selector:\n    app: s{number}\n  type: ClusterIP\n\
         ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: s{number}-x7k2f\n  namespace: ns{namespace}\n  \
         labels:\n    kubernetes.io/service-name: s{number}\naddressType: IPv4\nports:\n- name: http\n  port: {TARGET}\n  \
         protocol: TCP\nendpoints:\n"
    )
    .and_then(|()| slice(text, number, namespace, endpoints))
    .context("failed to format")
}

fn slice(
    text: &mut String,
    number: usize,
    namespace: usize,
    endpoints: &[Ipv4Addr],
) -> fmt::Result {
    for (index, address) in endpoints.iter().enumerate() {
        write!(
            text,
            "- addresses:\n  - {address}\n  conditions:\n    ready: true\n    serving: true\n    terminating: false\n  \
             nodeName: node-{}\n  targetRef:\n    kind: Pod\n    name: s{number}-6d4cf56db6-{index}\n    namespace: ns{namespace}\n",
            (number + index * 37) % NODES
        )?;
    }
    Ok(())
}

/// A policy: some pods get connections from pods of another kind here and next door, at some ports; every third limits egress, too.
fn policy(text: &mut String, number: usize, namespace: usize, namespaces: usize) -> Result<()> {
    let app = number / namespaces % APPS;
    let peer = (app + number) % APPS;
    let peers = format!(
        "    - podSelector:\n        matchLabels:\n          app: app{peer}\n    - namespaceSelector:\n        matchLabels:\n          \
         kubernetes.io/metadata.name: ns{}\n      podSelector:\n        matchLabels:\n          app: app{peer}\n",
        (namespace + 1) % namespaces
    );
    let ports = format!(
        "    ports:\n    - port: 8080\n      endPort: {}\n      protocol: TCP\n",
        8080 + number % 50
    );
    let egress = if number.is_multiple_of(3) {
        format!("  egress:\n  - to:\n{peers}{ports}")
    } else {
        String::new()
    };
    write!(
        text,
        "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata:\n  name: p{number}\n  namespace: ns{namespace}\nspec:\n  \
         podSelector:\n    matchLabels:\n      app: app{app}\n  ingress:\n  - from:\n{peers}{ports}{egress}"
    )
    .context("failed to format")
}

fn pod(
    text: &mut String,
    number: usize,
    namespaces: usize,
    place: &str,
    more: &str,
    address: Ipv4Addr,
) -> Result<()> {
    // What is `spec` follows the metadata, what is annotations is part of them.
    write!(
        text,
        "---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: {place}-{number}\n  namespace: ns{}\n  labels:\n    app: app{}\n{more}\
         status:\n  podIP: {address}\n  podIPs:\n  - ip: {address}\n",
        number % namespaces,
        number % APPS
    )
    .context("failed to format")
}
