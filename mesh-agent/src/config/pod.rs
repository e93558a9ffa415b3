//! Kubernetes `Pod`: what says who a workload is, where it is, and whether it is accelerated.
#![forbid(unsafe_code)]

use std::net::IpAddr;
use std::sync::Arc;

use crate::config::address;
use crate::config::key::Place;
use crate::config::known;
use crate::config::limits;
use crate::config::mark::{self, Share};
use crate::config::metadata::Metadata;
use crate::config::problem::{Finding, Severity};
use crate::config::reader::{Fields, Reader, Unknown};
use crate::model::labels::Labels;
use crate::model::service::Protocol;
use crate::model::workload::{Acceleration, Location, NamedPort};

/// A valid `Pod`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Pod {
    /// Its UID on its node, after which kubelet names its cgroup.
    pub(crate) uid: Option<String>,
    pub(crate) labels: Labels,
    pub(crate) service_account: String,
    pub(crate) addresses: Vec<PodAddress>,
    /// The node it is on, once it is on one.
    pub(crate) node: Option<String>,
    /// Its own name below that of a headless service.
    pub(crate) hostname: Option<Hostname>,
    /// Its `Ready` condition, where it has one.
    pub(crate) ready: Option<bool>,
    pub(crate) terminating: bool,
    pub(crate) ports: Vec<NamedPort>,
    pub(crate) share: Share,
    pub(crate) location: Location,
    /// Its own word; its namespace's or the agent's counts where it has none.
    pub(crate) acceleration: Option<Acceleration>,
    /// Whether it is in the mesh, by its own word; its namespace's or the source's counts where it has none.
    pub(crate) mesh: Option<bool>,
    /// Whether it has the node's own network.
    pub(crate) host_network: bool,
    /// Whether its first process is known to have run.
    pub(crate) started: bool,
    /// IDs of its containers, those for its start included.
    pub(crate) containers: Vec<String>,
    /// Whether its containers have all ended for good: it has its addresses still, but nobody answers there.
    pub(crate) ended: bool,
    /// Whether it is a workload: it runs, in a network of its own, and it is known where.
    pub(crate) live: bool,
}

/// `hostname` and `subdomain`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Hostname {
    name: Arc<str>,
    /// The service that it is below, in the pod's namespace.
    under: Box<str>,
}

impl Pod {
    /// Returns the name that the pod has below a service of its namespace.
    pub(crate) fn hostname_under(&self, service: &str) -> Option<&Arc<str>> {
        let own = self.hostname.as_ref()?;
        (*own.under == *service).then_some(&own.name)
    }
}

/// An address, and where it stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct PodAddress {
    pub(crate) ip: IpAddr,
    /// Path in the object.
    pub(crate) path: String,
    /// Lines below the object's first one.
    pub(crate) below: u64,
}

/// Reads a `Pod`. The result counts only if `reader` recorded no error.
pub(crate) fn read(
    reader: &mut Reader,
    fields: &Fields<'_>,
    metadata: Metadata,
    place: &Place,
) -> Pod {
    reader.only(fields, known::OBJECT, Unknown::Error);
    mark::only(reader, &metadata.marks, known::POD_ANNOTATIONS);
    let acceleration = mark::acceleration(reader, &metadata.marks);
    let mesh = mark::mesh(reader, &metadata.marks);
    let share = mark::share(reader, &metadata.marks);
    let spec = read_spec(reader, fields);
    let status = read_status(reader, fields);
    let marked = mark::location(reader, &metadata.marks);
    // It is on a node, where kubelet has or will have a cgroup for it.
    let uid = match metadata.mirror.filter(|it| place.is_api() && is_hash(it)) {
        Some(hash) => Some(hash),
        None => metadata.uid,
    };
    let is_kubelets = place.is_api() && uid.is_some() && spec.node.is_some();
    let location = match is_kubelets && marked == Location::Addresses {
        true => Location::Kubelet,
        false => marked,
    };
    // Where something is wrong, a note about what is missing would only mislead.
    let live = !status.ended
        && (reader.failed() || is_workload(reader, fields, &spec, &status, &location));
    let prefix = place.path_of("");
    let addresses = status.addresses.into_iter().map(|address| PodAddress {
        ip: address.ip,
        path: address.path.trim_start_matches(&prefix).to_owned(),
        below: address.line.saturating_sub(place.line),
    });
    Pod {
        uid,
        labels: metadata.labels.into(),
        service_account: spec.service_account,
        addresses: addresses.collect(),
        node: spec.node,
        hostname: spec.hostname,
        ready: status.ready,
        terminating: metadata.deleted,
        ports: spec.ports,
        share,
        location,
        acceleration,
        mesh,
        host_network: spec.host_network,
        started: status.started,
        containers: status.containers,
        ended: status.ended,
        live,
    }
}

/// Returns whether this is what kubelet calls a pod of a file: the MD5 hash of it. Never what the API server calls a pod, so nobody who may
/// create pods gets at another's cgroup by this.
fn is_hash(name: &str) -> bool {
    name.len() == 32 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// `spec`, as far as the agent reads it.
struct Spec {
    service_account: String,
    node: Option<String>,
    hostname: Option<Hostname>,
    host_network: bool,
    ports: Vec<NamedPort>,
}

fn read_spec(reader: &mut Reader, fields: &Fields<'_>) -> Spec {
    let mut spec = Spec {
        service_account: "default".to_owned(),
        node: None,
        hostname: None,
        host_network: false,
        ports: Vec::new(),
    };
    let Some(part) = reader.child(fields, "spec") else {
        return spec;
    };
    reader.only(&part, known::POD_SPEC, Unknown::Newer);
    if let Some(account) = reader.text(&part, "serviceAccountName")
        && !account.is_empty()
    {
        account.clone_into(&mut spec.service_account);
    }
    spec.host_network = reader.boolean(&part, "hostNetwork").unwrap_or(false);
    let node = reader
        .text(&part, "nodeName")
        .filter(|node| !node.is_empty());
    spec.node = node.map(str::to_owned);
    let name = reader.label(&part, "hostname").map(Arc::from);
    let under = reader.label(&part, "subdomain").map(Box::from);
    spec.hostname = name
        .zip(under)
        .map(|(name, under)| Hostname { name, under });
    for container in reader.mappings(&part, "containers") {
        container_ports(reader, &container, &mut spec.ports);
    }
    for container in reader.mappings(&part, "initContainers") {
        // Others have ended before the pod is ready.
        if reader.text(&container, "restartPolicy") == Some("Always") {
            container_ports(reader, &container, &mut spec.ports);
        }
    }
    spec
}

/// Adds the ports of a container that have names.
fn container_ports(reader: &mut Reader, container: &Fields<'_>, ports: &mut Vec<NamedPort>) {
    for fields in reader.mappings(container, "ports") {
        reader.only(&fields, known::CONTAINER_PORT, Unknown::Newer);
        if fields.entry("containerPort").is_none() {
            let help = "write `containerPort: NUMBER`";
            let path = fields.path_of("containerPort");
            reader.error(fields.line, path, "is missing", help);
        }
        let number = reader.port(&fields, "containerPort");
        let protocol = match reader.word(&fields, "protocol", &["TCP", "UDP", "SCTP"]) {
            Some("TCP") => Protocol::Tcp,
            Some("UDP") => Protocol::Udp,
            _ => continue,
        };
        if let (Some(name), Some(number)) = (reader.text(&fields, "name"), number)
            && !name.is_empty()
        {
            ports.push(NamedPort {
                name: name.to_owned(),
                number,
                protocol,
            });
        }
    }
}

/// `status`, as far as the agent reads it.
struct Status {
    ended: bool,
    started: bool,
    ready: Option<bool>,
    containers: Vec<String>,
    addresses: Vec<Address>,
}

/// An address with its place in the document.
struct Address {
    ip: IpAddr,
    path: String,
    line: u64,
}

fn read_status(reader: &mut Reader, fields: &Fields<'_>) -> Status {
    let mut status = Status {
        ended: false,
        // Without Kubernetes, who writes a manifest has something that runs.
        started: true,
        ready: None,
        containers: Vec::new(),
        addresses: Vec::new(),
    };
    let Some(part) = reader.child(fields, "status") else {
        return status;
    };
    reader.only(&part, known::POD_STATUS, Unknown::Newer);
    if let Some(phase) = reader.text(&part, "phase") {
        status.ended = matches!(phase, "Succeeded" | "Failed");
        status.started = phase != "Pending";
        if !known::PHASES.contains(&phase) && !phase.is_empty() {
            let line = part.entry("phase").map_or(part.line, |entry| entry.line);
            let problem = format!("`{phase}` is not a phase");
            let help = match known::nearest(phase, known::PHASES) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("the phases are {}", known::PHASES.join(", ")),
            };
            reader.error(line, part.path_of("phase"), problem, help);
        }
    }
    for condition in reader.mappings(&part, "conditions") {
        reader.only(&condition, known::POD_CONDITION, Unknown::Newer);
        if reader.text(&condition, "type") == Some("Ready") {
            let word = reader.word(&condition, "status", &["Unknown", "True", "False"]);
            status.ready = word.map(|word| word == "True");
        }
    }
    for list in ["initContainerStatuses", "containerStatuses"] {
        for container in reader.mappings(&part, list) {
            let id = reader
                .text(&container, "containerID")
                .and_then(container_id);
            let has_room = status.containers.len() < limits::CONTAINERS;
            status.containers.extend(id.filter(|_| has_room));
        }
    }
    status.addresses = addresses(reader, &part);
    status
}

/// Returns the ID in what names runtime and container, such as `containerd://ID`.
fn container_id(name: &str) -> Option<String> {
    let (_, id) = name.split_once("://")?;
    let is_id = (1..=limits::CONTAINER_ID_BYTES).contains(&id.len());
    is_id.then(|| id.to_owned())
}

/// Returns `podIPs`, or `podIP` where that is all there is.
fn addresses(reader: &mut Reader, status: &Fields<'_>) -> Vec<Address> {
    let mut found: Vec<Address> = Vec::new();
    for (index, node) in reader.list(status, "podIPs").iter().enumerate() {
        let path = format!("{}[{index}]", status.path_of("podIPs"));
        let Some(fields) = reader.mapping(node, path) else {
            continue;
        };
        reader.only(&fields, known::POD_IP, Unknown::Error);
        if fields.entry("ip").is_none() {
            let help = "write `- ip: ADDRESS`";
            reader.error(fields.line, fields.path_of("ip"), "is missing", help);
        }
        let Some(address) = pod_address(reader, &fields, "ip") else {
            continue;
        };
        if let Some(twin) = found.iter().find(|twin| twin.ip == address.ip) {
            let problem = format!("`{}` stands in {} already", address.ip, twin.path);
            reader.error(address.line, &address.path, problem, "keep one of the two");
        }
        found.push(address);
    }
    if found.len() > limits::ADDRESSES {
        let problem = format!(
            "has {} addresses, more than {}",
            found.len(),
            limits::ADDRESSES
        );
        let help =
            "Kubernetes gives a pod one address of each family; keep those that others connect to";
        reader.error(status.line, status.path_of("podIPs"), problem, help);
    }
    first_address(reader, status, &mut found);
    found
}

/// Reads `podIP`, which is the first of `podIPs` where both are given.
fn first_address(reader: &mut Reader, status: &Fields<'_>, found: &mut Vec<Address>) {
    // What the API server prints before a pod has an address.
    let empty = status
        .entry("podIP")
        .is_some_and(|entry| entry.node.text() == Some(""));
    if empty {
        return;
    }
    let Some(address) = pod_address(reader, status, "podIP") else {
        return;
    };
    match found.first() {
        None => found.push(address),
        Some(first) if first.ip == address.ip => {}
        Some(first) => {
            let problem = format!(
                "`{}` is not the first of status.podIPs, `{}`",
                address.ip, first.ip
            );
            let help = "leave podIP out, or give the same address first in podIPs";
            reader.error(address.line, &address.path, problem, help);
        }
    }
}

fn pod_address(reader: &mut Reader, fields: &Fields<'_>, field: &str) -> Option<Address> {
    let text = reader.text(fields, field)?;
    let line = fields.entry(field).map_or(fields.line, |entry| entry.line);
    let path = fields.path_of(field);
    match address::parse(text) {
        Ok(ip) => Some(Address { ip, path, line }),
        Err(error) => {
            reader.error(line, path, error.to_string(), error.help());
            None
        }
    }
}

/// Returns whether a pod that runs is a workload; if not, notes why.
fn is_workload(
    reader: &mut Reader,
    fields: &Fields<'_>,
    spec: &Spec,
    status: &Status,
    location: &Location,
) -> bool {
    let (part, field, problem, help) = if spec.host_network {
        (
            "spec",
            "hostNetwork",
            "the pod shares the node's own network, so it is no workload of the mesh; it is left out",
            "nothing to do: its connections are the node's",
        )
    } else if *location == Location::Kubelet {
        return true;
    } else if status.addresses.is_empty() && *location == Location::Addresses {
        (
            "status",
            "podIPs",
            "the pod has no address yet and no location; it is left out until it has",
            "on a machine without Kubernetes give status.podIPs, or an annotation underpass.dev/pid, netns or cgroup",
        )
    } else {
        return true;
    };
    let path = format!("{}.{field}", fields.path_of(part));
    let line = fields.entry(part).map_or(fields.line, |entry| entry.line);
    let note = Finding::error(line, path, problem, help).with(Severity::Note);
    reader.findings.push(note);
    false
}
