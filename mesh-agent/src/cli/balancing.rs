//! Arguments of the commands that show how services are balanced.

use std::str::FromStr;

use clap::{Args, Subcommand};

use crate::admin::types::explain::Who;
use crate::cli::discovery::service;
use crate::model::service::ServiceName;

/// Arguments of `services`.
#[derive(Clone, Debug, Args)]
pub struct ServicesArgs {
    /// The service; all of them where not given.
    #[arg(value_name = "NAMESPACE/NAME", value_parser = service)]
    pub service: Option<ServiceName>,
}

/// Arguments of `explain`, and of `policy test`: a connection.
#[derive(Clone, Debug, Args)]
pub struct ConnectionArgs {
    /// Who dials: a workload or an address.
    #[arg(value_name = "FROM")]
    pub from: Who,
    /// Who is dialled: a service, a workload or an address, and the port, such as shop/cart:80 or 10.96.0.1:80; IPv6 in brackets.
    #[arg(value_name = "TO:PORT")]
    pub to: Target,
    /// A datagram instead of a TCP connection.
    #[arg(long)]
    pub udp: bool,
}

/// Who is dialled, and at which port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// Who.
    pub who: Who,
    /// The port.
    pub port: u16,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || format!("`{text}` is not TO:PORT, such as shop/cart:80 or [fd00::1]:80");
        let (who, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let inner = who.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
        // Without brackets nobody knows where an IPv6 address ends.
        if inner.is_none() && who.contains(':') {
            return Err(wrong());
        }
        let port = port.parse().map_err(|_| wrong())?;
        let who = inner.unwrap_or(who).parse().map_err(|_| wrong())?;
        Ok(Self { who, port })
    }
}

/// Arguments of `policy`.
#[derive(Clone, Debug, Args)]
pub struct PolicyArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: PolicyCommand,
}

/// What to ask of policy.
#[derive(Clone, Debug, Subcommand)]
pub enum PolicyCommand {
    /// Say whether policy lets one dial the other, and which rule decides. Exit code 1 when it does not.
    Test(ConnectionArgs),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_name_or_an_address_with_a_port() {
        let read = |text: &str| {
            let target: Target = text.parse().unwrap();
            (target.who.to_string(), target.port)
        };
        assert_eq!(read("shop/cart:80"), ("shop/cart".into(), 80));
        assert_eq!(read("10.96.0.1:53"), ("10.96.0.1".into(), 53));
        assert_eq!(read("[fd00::1]:80"), ("fd00::1".into(), 80));
        assert_eq!(read("[::ffff:10.0.0.1]:80"), ("10.0.0.1".into(), 80));
        for wrong in ["", "shop/cart", "cart:80", "fd00::1:80", "shop/cart:http"] {
            assert!(wrong.parse::<Target>().is_err(), "{wrong}");
        }
    }
}
