//! Arguments of the commands that show routes.

use clap::{Args, Subcommand};

/// Arguments of `routes`.
#[derive(Clone, Debug, Args)]
pub struct RoutesArgs {
    /// What else to show than all of them.
    #[command(subcommand)]
    pub command: Option<RoutesCommand>,
}

/// What to ask of routes.
#[derive(Clone, Debug, Subcommand)]
pub enum RoutesCommand {
    /// Say which rule a request would go by, and why others are passed over. Exit code 1 when nobody would answer.
    Explain(RouteExplainArgs),
}

/// Arguments of `routes explain`.
#[derive(Clone, Debug, Args)]
pub struct RouteExplainArgs {
    /// Who asks: NAMESPACE/POD, or NAMESPACE.
    #[arg(value_name = "FROM")]
    pub from: String,
    /// What is asked for, such as `http://cart.shop/items?id=1` or `grpc://cart.shop:7070/pkg.Service/Method`.
    #[arg(value_name = "URL")]
    pub url: String,
    /// The method.
    #[arg(short = 'X', long, value_name = "METHOD")]
    pub method: Option<String>,
    /// A field of the request, as `name: value`; may be given several times.
    #[arg(short = 'H', long = "header", value_name = "FIELD")]
    pub headers: Vec<String>,
}
