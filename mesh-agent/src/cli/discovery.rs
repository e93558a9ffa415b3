//! Flags of discovery: of `run`, and of the commands that register and look up.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::dns::UPSTREAMS_MAX;
use crate::model::service::{Protocol, ServiceName};
use crate::source::registered::{RegisteredPort, ServiceRange};
use crate::telemetry::filter::parse_duration;

/// Heading of the flags below in the help of `run`.
const HEADING: &str = "Discovery";

/// Flags of `run` that say how services are found.
#[derive(Clone, Debug, Default, Args)]
pub struct DiscoveryArgs {
    /// Directory for what outlives the agent [default: /var/lib/underpass].
    #[arg(long, env = "UNDERPASS_STATE_DIR", value_name = "DIR", help_heading = HEADING)]
    pub state_dir: Option<PathBuf>,
    /// Where addresses of registered services come from: a range of IPv4, of IPv6, or both
    /// [default: 240.96.0.0/16,fdb1:70c6:5e2d:f096::/112].
    #[arg(long, env = "UNDERPASS_SERVICE_RANGE", value_name = "RANGE", help_heading = HEADING)]
    pub service_range: Option<ServiceRange>,
    /// Whether workloads' name queries are answered by the agent; `auto`: once there is a service [default: auto].
    #[arg(long, env = "UNDERPASS_DNS_CAPTURE", value_enum, value_name = "WHEN", help_heading = HEADING)]
    pub dns_capture: Option<DnsCapture>,
    /// Address at which the agent answers name queries of others, such as 192.0.2.1:53, or `off` [default: off].
    #[arg(long, env = "UNDERPASS_DNS_ADDRESS", value_name = "ADDRESS", help_heading = HEADING)]
    pub dns_address: Option<DnsAddress>,
    /// Port of the agent's name server on the loopback address of each workload [default: 15053].
    #[arg(long, env = "UNDERPASS_DNS_PORT", value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..), help_heading = HEADING)]
    pub dns_port: Option<u16>,
    /// Domain that services' names end with [default: cluster.local].
    #[arg(long, env = "UNDERPASS_DNS_DOMAIN", value_name = "DOMAIN", help_heading = HEADING)]
    pub dns_domain: Option<DnsDomain>,
    /// Name servers that all other queries go to, separated by commas [default: those of /etc/resolv.conf].
    #[arg(long, env = "UNDERPASS_DNS_UPSTREAM", value_name = "ADDRESSES", help_heading = HEADING)]
    pub dns_upstream: Option<DnsUpstream>,
}

/// Whether workloads' name queries are answered by the agent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum DnsCapture {
    /// Once there is a service.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

/// Where name queries of others are answered; `None` is nowhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DnsAddress(pub Option<SocketAddr>);

impl FromStr for DnsAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "off" {
            return Ok(Self(None));
        }
        let address = name_server(text).ok_or_else(|| {
            format!(
                "`{text}` is neither an address, such as 192.0.2.1:53 or [fd00::1]:53, nor `off`"
            )
        })?;
        if address.ip().is_unspecified() {
            // Answers would leave with whatever address the route has, and resolvers drop those.
            return Err(format!("`{text}` is every address; name one"));
        }
        Ok(Self(Some(address)))
    }
}

/// A domain in lower case, without the last dot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DnsDomain(pub String);

impl Default for DnsDomain {
    fn default() -> Self {
        Self("cluster.local".to_owned())
    }
}

/// Bytes of a domain: `_port._tcp.name.namespace.svc.` with all labels at their longest goes before it.
const DOMAIN_BYTES: usize = 100;

impl FromStr for DnsDomain {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let lower = text.trim_end_matches('.').to_ascii_lowercase();
        if lower.len() <= DOMAIN_BYTES && crate::config::name::is_subdomain(&lower) {
            return Ok(Self(lower));
        }
        Err(format!(
            "`{text}` is no domain of at most {DOMAIN_BYTES} characters, such as cluster.local"
        ))
    }
}

/// Name servers that queries are forwarded to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DnsUpstream(pub Vec<SocketAddr>);

impl FromStr for DnsUpstream {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let one = |word: &str| {
            name_server(word.trim()).ok_or_else(|| {
                format!("`{word}` is no address, such as 192.0.2.53 or [fd00::53]:5353")
            })
        };
        let all = text.split(',').map(one).collect::<Result<Vec<_>, _>>()?;
        if all.len() > UPSTREAMS_MAX {
            return Err(format!(
                "{} name servers, and {UPSTREAMS_MAX} is the most",
                all.len()
            ));
        }
        Ok(Self(all))
    }
}

/// Returns the address of a name server, with port 53 where none is given.
fn name_server(text: &str) -> Option<SocketAddr> {
    let with_port = |ip: IpAddr| SocketAddr::new(ip, 53);
    let found = text.parse().ok();
    found
        .or_else(|| text.parse().ok().map(with_port))
        .filter(|address: &SocketAddr| address.port() != 0)
}

/// Arguments of `register`.
#[derive(Clone, Debug, Args)]
pub struct RegisterArgs {
    /// The service.
    #[arg(value_name = "NAMESPACE/NAME", value_parser = service)]
    pub service: ServiceName,
    /// What tells this instance from the service's others.
    #[arg(long, value_name = "ID")]
    pub id: String,
    /// Where the instance listens.
    #[arg(long, value_name = "ADDRESS")]
    pub address: IpAddr,
    /// A port that it listens on, such as 8080, 53/udp, http=8080 or http=80:8080 (the service's and its own).
    #[arg(long = "port", value_name = "[NAME=][PORT:]PORT[/PROTOCOL]", required = true, value_parser = port)]
    pub ports: Vec<RegisteredPort>,
    /// How long it lives without a sign of life; whole seconds.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = ttl)]
    pub ttl: u32,
    /// Its weight among the others; 0 gets nothing.
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub weight: u32,
    /// 0 is used first, higher ones as lower ones fail.
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    pub priority: u32,
    /// The zone it is in.
    #[arg(long, value_name = "NAME")]
    pub zone: Option<String>,
    /// The region it is in.
    #[arg(long, value_name = "NAME")]
    pub region: Option<String>,
    /// A label, shown by `lookup`.
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    pub labels: Vec<(String, String)>,
    /// Register once and exit: somebody else has to renew it. This is the default.
    #[arg(long, conflicts_with = "keep")]
    pub once: bool,
    /// Renew it until interrupted, then take it out.
    #[arg(long)]
    pub keep: bool,
}

/// Arguments of `deregister`.
#[derive(Clone, Debug, Args)]
pub struct DeregisterArgs {
    /// The service.
    #[arg(value_name = "NAMESPACE/NAME", value_parser = service)]
    pub service: ServiceName,
    /// The instance.
    #[arg(long, value_name = "ID")]
    pub id: String,
}

/// Arguments of `lookup`.
#[derive(Clone, Debug, Args)]
pub struct LookupArgs {
    /// The service; all of them where not given.
    #[arg(value_name = "NAMESPACE/NAME", value_parser = service)]
    pub service: Option<ServiceName>,
}

/// Reads `NAMESPACE/NAME` of a service.
pub(super) fn service(text: &str) -> Result<ServiceName, String> {
    let (namespace, name) = text
        .split_once('/')
        .ok_or_else(|| format!("`{text}` is not NAMESPACE/NAME"))?;
    let is_label = crate::config::name::is_label;
    if !is_label(namespace) || !is_label(name) {
        return Err(format!(
            "`{text}`: both have to be DNS labels in lower case"
        ));
    }
    Ok(ServiceName {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    })
}

fn port(text: &str) -> Result<RegisteredPort, String> {
    let wrong = || format!("`{text}` is no port, such as 8080, 53/udp, http=8080 or http=80:8080");
    let (name, rest) = match text.split_once('=') {
        Some((name, rest)) => (Some(name.to_owned()), rest),
        None => (None, text),
    };
    let (numbers, protocol) = match rest.split_once('/') {
        None | Some((_, "tcp")) => (rest.trim_end_matches("/tcp"), Protocol::Tcp),
        Some((numbers, "udp")) => (numbers, Protocol::Udp),
        Some(_) => return Err(wrong()),
    };
    let number = |text: &str| text.parse().map_err(|_| wrong());
    let (service_port, number) = match numbers.split_once(':') {
        Some((service, own)) => (Some(number(service)?), number(own)?),
        None => (None, number(numbers)?),
    };
    Ok(RegisteredPort {
        name,
        number,
        service_port,
        protocol,
    })
}

fn ttl(text: &str) -> Result<u32, String> {
    let ttl: Duration = parse_duration(text)?;
    if ttl.subsec_nanos() != 0 || ttl.is_zero() {
        return Err(format!("`{text}` is not one or more whole seconds"));
    }
    u32::try_from(ttl.as_secs()).map_err(|_| format!("`{text}` is too long"))
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or_else(|| format!("`{text}` is not KEY=VALUE"))?;
    Ok((key.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_written_in_four_ways() {
        let read = |text| {
            let port = port(text).unwrap();
            (port.name, port.service_port, port.number, port.protocol)
        };
        let name = Some("http".to_owned());
        assert_eq!(read("8080"), (None, None, 8080, Protocol::Tcp));
        assert_eq!(read("53/udp"), (None, None, 53, Protocol::Udp));
        assert_eq!(
            read("http=8080/tcp"),
            (name.clone(), None, 8080, Protocol::Tcp)
        );
        assert_eq!(read("http=80:8080"), (name, Some(80), 8080, Protocol::Tcp));
        for wrong in ["", "http", "http=", "80/sctp", "70000", "a:80", "80:"] {
            assert!(port(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn addresses_of_name_servers_need_no_port() {
        let upstream: DnsUpstream = "192.0.2.1, [fd00::1]:5353,fd00::2".parse().unwrap();
        let words: Vec<String> = upstream.0.iter().map(ToString::to_string).collect();
        assert_eq!(words, ["192.0.2.1:53", "[fd00::1]:5353", "[fd00::2]:53"]);
        assert!(
            "1.1.1.1,2.2.2.2,3.3.3.3,4.4.4.4"
                .parse::<DnsUpstream>()
                .is_err()
        );
        assert!("dns.example".parse::<DnsUpstream>().is_err());
        assert!("0.0.0.0:53".parse::<DnsAddress>().is_err());
        assert_eq!("off".parse(), Ok(DnsAddress(None)));
    }

    #[test]
    fn a_domain_is_kept_in_lower_case() {
        assert_eq!("Mesh.Local.".parse(), Ok(DnsDomain("mesh.local".into())));
        for wrong in ["", ".", "a..b", "a b"] {
            assert!(wrong.parse::<DnsDomain>().is_err(), "{wrong}");
        }
        assert!("a.".repeat(60).parse::<DnsDomain>().is_err());
    }

    #[test]
    fn a_ttl_is_whole_seconds() {
        assert_eq!(ttl("1m"), Ok(60));
        for wrong in ["0s", "1500ms", "soon"] {
            assert!(ttl(wrong).is_err(), "{wrong}");
        }
    }
}
