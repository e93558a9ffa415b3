//! Settings of what is seen of requests.

use crate::cli::Output;
use crate::cli::http::{AccessLogTarget, HttpArgs, HttpMetricsNames, OtlpEndpoint};
use crate::telemetry::http::log::LogFormat;
use crate::telemetry::http::{HttpSettings, MetricNames, TRACE_SAMPLE};

/// Returns the settings; a flag wins over the file. Services' names end with `domain`.
pub(super) fn merge(flags: HttpArgs, file: HttpArgs, domain: &str) -> HttpSettings {
    let names = flags.http_metrics_names.or(file.http_metrics_names);
    let log = flags.access_log.or(file.access_log);
    let log_format = flags.access_log_format.or(file.access_log_format);
    let log_sample = flags.access_log_sample.or(file.access_log_sample);
    let endpoint = flags.otlp_endpoint.or(file.otlp_endpoint);
    let trace_sample = flags.trace_sample.or(file.trace_sample);
    HttpSettings {
        names: match names.unwrap_or_default() {
            HttpMetricsNames::Mesh => MetricNames::Mesh,
            HttpMetricsNames::Istio => MetricNames::Istio,
        },
        domain: domain.to_owned(),
        log: log.and_then(|AccessLogTarget(target)| target),
        log_format: match log_format {
            Some(Output::Text) => LogFormat::Text,
            Some(Output::Json) | None => LogFormat::Json,
        },
        log_sample: log_sample.map_or(1.0, |share| share.number()),
        otlp_endpoint: endpoint.and_then(|OtlpEndpoint(endpoint)| endpoint),
        trace_sample: trace_sample.map_or(TRACE_SAMPLE, |share| share.number()),
    }
}
