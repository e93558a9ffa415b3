//! What a service under load takes: its manifest, what wrk saw of it, and the end of a backend.

use std::fs;
use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use harness::{Node, Pod};

/// What wrk saw.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) requests: u64,
    pub(crate) connect_errors: u64,
    /// Requests that were sent, or about to be, and not answered.
    pub(crate) cut_off: u64,
    pub(crate) other_answers: u64,
}

/// Writes the manifest of a service of nginx with these backends.
pub(crate) fn write_service(
    node: &Node,
    name: &str,
    address: Ipv4Addr,
    backends: &[&Pod],
) -> Result<()> {
    let endpoints = backends.iter().map(|pod| {
        let (address, name) = (pod.v4(), pod.name());
        format!(
            "- addresses: [{address}]\n  conditions: {{ready: true}}\n  targetRef: {{kind: Pod, namespace: default, name: {name}}}\n"
        )
    });
    let endpoints: String = endpoints.collect();
    let text = format!(
        "apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: default}}
spec:
  clusterIP: {address}
  clusterIPs: [{address}]
  ports: [{{name: http, port: 80, targetPort: 80, protocol: TCP}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: {name}
  namespace: default
  labels: {{kubernetes.io/service-name: {name}}}
addressType: IPv4
ports: [{{name: http, port: 80, protocol: TCP}}]
endpoints:
{endpoints}"
    );
    write(node, name, &text)
}

/// Writes a manifest.
pub(crate) fn write(node: &Node, name: &str, text: &str) -> Result<()> {
    let path = node.manifests().join(format!("{name}.yaml"));
    fs::write(&path, text).with_context(|| format!("failed to write `{}`", path.display()))
}

/// Kills every process of the pod at once.
pub(crate) fn kill_all(pod: &Pod) -> Result<()> {
    let path = pod.cgroup().join("cgroup.kill");
    fs::write(&path, "1").with_context(|| format!("failed to write `{}`", path.display()))
}

pub(crate) fn parse(text: &str) -> Option<Seen> {
    let line = |prefix: &str| text.lines().find_map(|it| it.trim().strip_prefix(prefix));
    let requests = text
        .lines()
        .find_map(|line| line.trim().split_once(" requests in "))?;
    let mut seen = Seen {
        requests: requests.0.parse().ok()?,
        ..Seen::default()
    };
    // connect 0, read 3, write 0, timeout 0
    for error in line("Socket errors: ")
        .into_iter()
        .flat_map(|it| it.split(", "))
    {
        let (kind, count) = error.split_once(' ')?;
        let count: u64 = count.parse().ok()?;
        match kind {
            "connect" => seen.connect_errors += count,
            _ => seen.cut_off += count,
        }
    }
    if let Some(count) = line("Non-2xx or 3xx responses: ") {
        seen.other_answers = count.parse().ok()?;
    }
    Some(seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_wrk_writes_of_errors() {
        let text = "  31415 requests in 4.00s, 70.31MB read\n  Socket errors: connect 1, read 7, write 2, timeout 1\n  \
                    Non-2xx or 3xx responses: 5\nRequests/sec:   7853.75\n";
        let seen = Seen {
            requests: 31415,
            connect_errors: 1,
            cut_off: 10,
            other_answers: 5,
        };
        assert_eq!(parse(text), Some(seen));
        let seen = Seen {
            requests: 5,
            ..Seen::default()
        };
        assert_eq!(parse("  5 requests in 4.00s, 70.31MB read\n"), Some(seen));
        assert_eq!(parse("unable to connect\n"), None);
    }
}
