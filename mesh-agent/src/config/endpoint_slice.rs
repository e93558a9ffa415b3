//! `EndpointSlice` (`discovery.k8s.io/v1`): who answers for a service.
#![forbid(unsafe_code)]

use std::net::IpAddr;
use std::sync::Arc;

use crate::config::known;
use crate::config::known::service as fields;
use crate::config::mark::{self, Share};
use crate::config::metadata::Metadata;
use crate::config::reader::{Fields, Reader, Unknown};
use crate::model::service::{Hints, Protocol};
use crate::model::workload::WorkloadName;

/// Label: the service that a slice belongs to.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// A valid `EndpointSlice`, kept small: there may be 100,000 endpoints.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct EndpointSlice {
    /// Name of its service, in its own namespace.
    pub(crate) service: Option<Box<str>>,
    pub(crate) ports: Box<[SlicePort]>,
    pub(crate) endpoints: Box<[SliceEndpoint]>,
    pub(crate) share: Share,
}

/// A port of every endpoint of a slice.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct SlicePort {
    /// Empty where it has none.
    pub(crate) name: Box<str>,
    pub(crate) number: u16,
    pub(crate) protocol: Protocol,
}

/// One endpoint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct SliceEndpoint {
    pub(crate) address: IpAddr,
    pub(crate) ready: bool,
    pub(crate) serving: bool,
    pub(crate) terminating: bool,
    pub(crate) node: Option<Arc<str>>,
    pub(crate) zone: Option<Arc<str>>,
    /// Zones and nodes that it is for; rarely there.
    pub(crate) hints: Option<Arc<Hints>>,
    /// The pod behind it.
    pub(crate) pod: Option<Arc<WorkloadName>>,
    /// A DNS label.
    pub(crate) hostname: Option<Arc<str>>,
}

/// Reads an `EndpointSlice`. The result counts only if `reader` recorded no error.
pub(crate) fn read(reader: &mut Reader, object: &Fields<'_>, metadata: &Metadata) -> EndpointSlice {
    reader.only(object, fields::ENDPOINT_SLICE, Unknown::Error);
    mark::only(reader, &metadata.marks, known::ENDPOINT_SLICE_ANNOTATIONS);
    let share = mark::share(reader, &metadata.marks);
    let service = metadata.labels.get(SERVICE_NAME);
    if service.is_none_or(String::is_empty) {
        let problem = format!("has no label `{SERVICE_NAME}`; the slice is used by no service");
        let help = "add the label with the name of its Service";
        let path = format!("{}.labels", object.path_of("metadata"));
        reader.warn(object.line_of("metadata"), path, problem, help);
    }
    if object.entry("addressType").is_none() {
        let help = "write `addressType: IPv4` or `addressType: IPv6`";
        reader.error(
            object.line,
            object.path_of("addressType"),
            "is missing",
            help,
        );
    }
    let family = reader.word(object, "addressType", &["IPv4", "IPv6", "FQDN"]);
    let ports = reader.mappings(object, "ports");
    let ports: Vec<SlicePort> = ports
        .iter()
        .filter_map(|port| slice_port(reader, port))
        .collect();
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    let mut shared = Shared::default();
    let mut endpoints = Vec::new();
    if family == Some("FQDN") {
        let problem = "endpoints that are names are not balanced; they are left out";
        let help = "give addresses: `addressType: IPv4` or `IPv6`";
        let path = object.path_of("addressType");
        reader.warn(object.line_of("addressType"), path, problem, help);
    } else {
        for endpoint in reader.mappings(object, "endpoints") {
            let wants_v6 = family == Some("IPv6");
            endpoints.extend(slice_endpoint(
                reader,
                &endpoint,
                wants_v6,
                namespace,
                &mut shared,
            ));
        }
    }
    EndpointSlice {
        service: service
            .filter(|name| !name.is_empty())
            .map(|name| name.as_str().into()),
        ports: ports.into(),
        endpoints: endpoints.into(),
        share,
    }
}

/// Returns a port that is balanced: one without number is not, as with kube-proxy.
fn slice_port(reader: &mut Reader, port: &Fields<'_>) -> Option<SlicePort> {
    reader.only(port, fields::ENDPOINT_PORT, Unknown::Newer);
    let number = reader.port(port, "port");
    let name = reader.text(port, "name").unwrap_or_default();
    reader.text(port, "appProtocol");
    let protocol = match reader.word(port, "protocol", &["TCP", "UDP", "SCTP"])? {
        "TCP" => Protocol::Tcp,
        "UDP" => Protocol::Udp,
        _ => {
            let path = port.path_of("protocol");
            let help = "nothing to do: clients reach it in another way";
            reader.note(
                port.line,
                path,
                "SCTP is not balanced here; the port is left out",
                help,
            );
            return None;
        }
    };
    if port.entry("port").is_none() {
        let problem = "a port without number is not balanced; it is left out";
        let help = "write `port: NUMBER`, at which the endpoints answer";
        reader.note(port.line, port.path_of("port"), problem, help);
    }
    Some(SlicePort {
        name: name.into(),
        number: number?,
        protocol,
    })
}

/// Strings that many endpoints of a slice have in common.
#[derive(Default)]
struct Shared(Vec<Arc<str>>);

impl Shared {
    /// More than this many are not worth the search.
    const MOST: usize = 8;

    fn string(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.0.iter().find(|known| ***known == *text) {
            return known.clone();
        }
        let new: Arc<str> = text.into();
        if self.0.len() < Self::MOST {
            self.0.push(new.clone());
        }
        new
    }
}

fn slice_endpoint(
    reader: &mut Reader,
    endpoint: &Fields<'_>,
    wants_v6: bool,
    namespace: &str,
    shared: &mut Shared,
) -> Option<SliceEndpoint> {
    reader.only(endpoint, fields::ENDPOINT, Unknown::Newer);
    if endpoint.entry("deprecatedTopology").is_some() {
        let path = endpoint.path_of("deprecatedTopology");
        let line = endpoint.line_of("deprecatedTopology");
        let help = "write `zone` and `nodeName`, which took its place";
        reader.note(line, path, "is not acted on", help);
    }
    let mut conditions = [None; 3];
    if let Some(part) = reader.child(endpoint, "conditions") {
        reader.only(&part, fields::CONDITIONS, Unknown::Newer);
        conditions = ["ready", "serving", "terminating"].map(|field| reader.boolean(&part, field));
    }
    // What is not said is taken as Kubernetes takes it.
    let ready = conditions[0].unwrap_or(true);
    let mut text = |reader: &mut Reader, field: &str| {
        let text = reader.text(endpoint, field)?;
        (!text.is_empty()).then(|| shared.string(text))
    };
    let zone = text(reader, "zone");
    let node = text(reader, "nodeName");
    Some(SliceEndpoint {
        ready,
        serving: conditions[1].unwrap_or(ready),
        terminating: conditions[2].unwrap_or(false),
        node,
        zone,
        hints: hints(reader, endpoint).map(Arc::new),
        pod: pod(reader, endpoint, namespace).map(Arc::new),
        hostname: reader.label(endpoint, "hostname").map(Arc::from),
        address: first_address(reader, endpoint, wants_v6)?,
    })
}

/// Returns the first address: the others, if there are any, mean the same endpoint, and kube-proxy uses the first too.
fn first_address(reader: &mut Reader, endpoint: &Fields<'_>, wants_v6: bool) -> Option<IpAddr> {
    let mut first = None;
    let strings = reader.strings(endpoint, "addresses");
    if strings.is_empty() {
        let path = endpoint.path_of("addresses");
        let help = "give the address of the endpoint: `addresses: [10.0.0.1]`";
        reader.error(endpoint.line, path, "holds no address", help);
    }
    for (text, path, line) in strings {
        let help = "give one of the slice's addressType";
        match text.parse::<IpAddr>() {
            Err(_) => {
                let problem = format!("`{text}` is not an IP address");
                reader.error(line, path, problem, help);
            }
            Ok(address) if address.is_ipv6() != wants_v6 => {
                let problem = format!("`{text}` is not of the slice's addressType");
                reader.error(line, path, problem, help);
            }
            Ok(address)
                if address.is_loopback() || address.is_unspecified() || address.is_multicast() =>
            {
                let problem = format!("`{text}` cannot be the address of an endpoint");
                let help = "give the address that others connect to";
                reader.error(line, path, problem, help);
            }
            Ok(address) if first.is_none() => first = Some(address),
            Ok(_) => {
                let problem = "only the first address of an endpoint is used";
                let help = "make another endpoint of it if it answers for itself";
                reader.note(line, path, problem, help);
            }
        }
    }
    first
}

fn hints(reader: &mut Reader, endpoint: &Fields<'_>) -> Option<Hints> {
    let part = reader.child(endpoint, "hints")?;
    reader.only(&part, fields::HINTS, Unknown::Newer);
    let mut names = |field: &str| {
        let mut names = Vec::new();
        for hint in reader.mappings(&part, field) {
            reader.only(&hint, fields::HINT, Unknown::Newer);
            names.extend(reader.text(&hint, "name").map(str::to_owned));
        }
        names
    };
    let (zones, nodes) = (names("forZones"), names("forNodes"));
    (!zones.is_empty() || !nodes.is_empty()).then_some(Hints { zones, nodes })
}

fn pod(reader: &mut Reader, endpoint: &Fields<'_>, namespace: &str) -> Option<WorkloadName> {
    let part = reader.child(endpoint, "targetRef")?;
    reader.only(&part, fields::REFERENCE, Unknown::Newer);
    let kind = reader.text(&part, "kind");
    let name = reader.text(&part, "name")?;
    let namespace = reader.text(&part, "namespace").unwrap_or(namespace);
    (kind == Some("Pod")).then(|| WorkloadName {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    })
}
