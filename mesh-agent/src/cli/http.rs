//! Flags of `run` that say what is seen of requests.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, ValueEnum};

use crate::cli::Output;
use crate::telemetry::http::log::LogTarget;
use crate::telemetry::http::otlp::Endpoint;

/// Heading of the flags below in the help of `run`.
const HEADING: &str = "Requests";

/// Flags of `run` that say what is seen of requests.
#[derive(Clone, Debug, Default, Args)]
pub struct HttpArgs {
    /// Names of the metrics of requests: the mesh's own, or Istio's for dashboards that are there already [default: mesh].
    /// Istio's tell by which pod a request was answered, count messages of gRPC, and come with `istio_tcp_...` for
    /// connections that carry no requests. Requests are counted by at most 10,000 sets of labels; what comes beyond is added
    /// up under `__other__`, and a set goes after 10 minutes without a request from its source to its service (with Istio's
    /// names, to its pod).
    #[arg(long, env = "UNDERPASS_HTTP_METRICS_NAMES", value_enum, value_name = "NAMES", help_heading = HEADING)]
    pub http_metrics_names: Option<HttpMetricsNames>,
    /// File that a line is written to for each request, `-` for standard output, or `off` [default: off]. Requests never wait
    /// for it: what cannot be written in time is counted as dropped. A file that was renamed is made anew.
    #[arg(long, env = "UNDERPASS_ACCESS_LOG", value_name = "PATH", help_heading = HEADING)]
    pub access_log: Option<AccessLogTarget>,
    /// Form of the access log [default: json].
    #[arg(long, env = "UNDERPASS_ACCESS_LOG_FORMAT", value_enum, value_name = "FORM", help_heading = HEADING)]
    pub access_log_format: Option<Output>,
    /// Share of the requests that are logged, 0 to 1 [default: 1]. Failed ones always are.
    #[arg(long, env = "UNDERPASS_ACCESS_LOG_SAMPLE", value_name = "SHARE", help_heading = HEADING)]
    pub access_log_sample: Option<Share>,
    /// Collector that spans are exported to by OTLP over HTTP, such as http://127.0.0.1:4318, or `off` [default: off]. Plain
    /// http only. Requests then carry W3C trace context.
    #[arg(long, env = "UNDERPASS_OTLP_ENDPOINT", value_name = "URL", help_heading = HEADING)]
    pub otlp_endpoint: Option<OtlpEndpoint>,
    /// Share of the traces that begin at the agent which are recorded, 0 to 1 [default: 0.01]. Where a request brings a trace,
    /// that says whether it is.
    #[arg(long, env = "UNDERPASS_TRACE_SAMPLE", value_name = "SHARE", help_heading = HEADING)]
    pub trace_sample: Option<Share>,
}

/// Under which names requests are counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum HttpMetricsNames {
    /// `mesh_http_...`.
    #[default]
    Mesh,
    /// `istio_...`.
    Istio,
}

/// Where requests are logged; `None` is nowhere.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AccessLogTarget(pub Option<LogTarget>);

impl FromStr for AccessLogTarget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "" => Err("an empty path is none; `off` logs nothing".to_owned()),
            "off" => Ok(Self(None)),
            "-" => Ok(Self(Some(LogTarget::Stdout))),
            path => Ok(Self(Some(LogTarget::File(PathBuf::from(path))))),
        }
    }
}

/// Where spans go; `None` is nowhere.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OtlpEndpoint(pub Option<Endpoint>);

impl FromStr for OtlpEndpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "off" {
            return Ok(Self(None));
        }
        text.parse().map(|endpoint| Self(Some(endpoint)))
    }
}

/// A share of all, 0 to 1.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Share(f64);

impl Share {
    /// Returns it as a number.
    pub fn number(self) -> f64 {
        self.0
    }
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = text.parse().ok();
        let share = number.filter(|number| (0.0..=1.0).contains(number));
        share
            .map(Self)
            .ok_or_else(|| format!("`{text}` is no share from 0 to 1, such as 0.05"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_make_no_sense_are_told() {
        assert_eq!("0.05".parse(), Ok(Share(0.05)));
        for wrong in ["1.1", "-0.1", "NaN", "5%", ""] {
            assert!(wrong.parse::<Share>().is_err(), "{wrong}");
        }
        assert_eq!("off".parse(), Ok(OtlpEndpoint(None)));
        let error = "https://otel:4318".parse::<OtlpEndpoint>().unwrap_err();
        assert!(error.contains("https is not supported"), "{error}");
        assert_eq!("-".parse(), Ok(AccessLogTarget(Some(LogTarget::Stdout))));
        assert!("".parse::<AccessLogTarget>().is_err());
    }
}
