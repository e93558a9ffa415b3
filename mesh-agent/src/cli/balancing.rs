//! Arguments of the commands that show how services are balanced.

use clap::Args;

use crate::cli::discovery::service;
use crate::model::service::ServiceName;

/// Arguments of `services`.
#[derive(Clone, Debug, Args)]
pub struct ServicesArgs {
    /// The service; all of them where not given.
    #[arg(value_name = "NAMESPACE/NAME", value_parser = service)]
    pub service: Option<ServiceName>,
}
