//! The benchmark's services: as many as asked for, all alike, of which one is dialled.

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use anyhow::{Context, Result};
use harness::Pod;

/// Services to a file: what somebody who keeps them in files would do.
const IN_A_FILE: usize = 100;

/// The port that each service is dialled at.
const PORT: u16 = 80;

/// One service with one endpoint.
#[derive(Clone, Copy, Debug)]
pub(super) struct Service {
    pub(super) number: usize,
    pub(super) address: Ipv4Addr,
    pub(super) port: u16,
    pub(super) endpoint: SocketAddrV4,
}

/// Returns `count` services that lead to `port` of `server`.
pub(super) fn services(count: usize, server: &Pod, port: u16) -> Vec<Service> {
    // 172.30.0.0/15, from .0.1 on.
    let first = u32::from(Ipv4Addr::new(172, 30, 0, 1));
    let address = |number: usize| first + u32::try_from(number).unwrap_or(u32::MAX - first);
    (0..count)
        .map(|number| Service {
            number,
            address: address(number).into(),
            port: PORT,
            endpoint: SocketAddrV4::new(server.v4(), port),
        })
        .collect()
}

/// Returns the one that is dialled: in the middle of the list, as the average of all is.
pub(super) fn dialled(services: &[Service]) -> Option<SocketAddr> {
    let middle = services.get(services.len() / 2)?;
    Some(SocketAddrV4::new(middle.address, middle.port).into())
}

/// Writes the services to where the agent of `server`'s node reads them, in place of those before.
pub(super) fn write(services: &[Service], server: &Pod) -> Result<()> {
    let directory = server.node().manifests();
    for entry in fs::read_dir(&directory).context("failed to list the manifests")? {
        let entry = entry.context("failed to list the manifests")?;
        if entry.file_name().to_string_lossy().starts_with("services-") {
            fs::remove_file(entry.path()).context("failed to remove services")?;
        }
    }
    for (index, part) in services.chunks(IN_A_FILE).enumerate() {
        let mut text = String::new();
        for service in part {
            manifest(&mut text, service).context("failed to format")?;
        }
        let path = directory.join(format!("services-{index}.yaml"));
        fs::write(&path, text).with_context(|| format!("failed to write `{}`", path.display()))?;
    }
    Ok(())
}

fn manifest(text: &mut String, service: &Service) -> std::fmt::Result {
    let Service {
        number,
        address,
        port,
        endpoint,
    } = service;
    writeln!(
        text,
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: s{number}, namespace: bench}}\n\
         spec:\n  clusterIP: {address}\n  clusterIPs: [{address}]\n  ports: [{{port: {port}, targetPort: {target}, protocol: TCP}}]\n\
         ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: s{number}\n  namespace: bench\n  \
         labels: {{kubernetes.io/service-name: s{number}}}\naddressType: IPv4\n\
         ports: [{{port: {target}, protocol: TCP}}]\nendpoints:\n- addresses: [{ip}]\n  conditions: {{ready: true}}",
        ip = endpoint.ip(),
        target = endpoint.port()
    )
}
