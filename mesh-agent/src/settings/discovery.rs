//! Settings of discovery.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::cli::discovery::{DiscoveryArgs, DnsAddress, DnsCapture, DnsDomain, DnsUpstream};
use crate::source::registered::ServiceRange;

/// Where what outlives the agent is kept: where the file system hierarchy has the state of programs.
pub const STATE_DIR: &str = "/var/lib/underpass";

/// Port of the name server in each workload: beside the other port that meshes use there, and above what needs privileges.
pub const DNS_PORT: u16 = 15053;

/// How services are found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DiscoverySettings {
    /// Directory for what outlives the agent.
    pub state_dir: PathBuf,
    /// Where addresses of registered services come from.
    pub service_range: ServiceRange,
    /// Whether workloads' name queries are answered by the agent.
    pub dns_capture: DnsCapture,
    /// Where name queries of others are answered.
    pub dns_address: Option<SocketAddr>,
    /// Port of the name server in each workload.
    pub dns_port: u16,
    /// Domain that services' names end with.
    pub dns_domain: String,
    /// Name servers that other queries go to; `None`: those of /etc/resolv.conf.
    pub dns_upstream: Option<Vec<SocketAddr>>,
}

impl DiscoverySettings {
    /// Returns the settings; a flag wins over the file.
    pub(super) fn merge(flags: DiscoveryArgs, file: DiscoveryArgs) -> Self {
        let address = flags.dns_address.or(file.dns_address);
        let DnsAddress(dns_address) = address.unwrap_or(DnsAddress(None));
        let DnsDomain(dns_domain) = flags.dns_domain.or(file.dns_domain).unwrap_or_default();
        let upstream = flags.dns_upstream.or(file.dns_upstream);
        let state_dir = flags.state_dir.or(file.state_dir);
        Self {
            state_dir: state_dir.unwrap_or_else(|| STATE_DIR.into()),
            service_range: flags
                .service_range
                .or(file.service_range)
                .unwrap_or_default(),
            dns_capture: flags.dns_capture.or(file.dns_capture).unwrap_or_default(),
            dns_address,
            dns_port: flags.dns_port.or(file.dns_port).unwrap_or(DNS_PORT),
            dns_domain,
            dns_upstream: upstream.map(|DnsUpstream(servers)| servers),
        }
    }
}
