//! Envoy's configuration.

use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{Program, Surroundings};
use crate::l7::backend;
use crate::l7::proxy::{Entry, PLENTY, ROUTES};

const HTTP: &str = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const ROUTER: &str = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";
const PROTOCOL: &str = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
const TLS: &str =
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";

/// Returns the command that runs it with one worker.
pub(super) fn command(at: &Surroundings<'_>, program: PathBuf) -> Result<Program> {
    let config = json!({"static_resources": {
        "listeners": Entry::ALL.map(|entry| listener(at, entry)),
        "clusters": Entry::ALL.map(|entry| cluster(at, entry)),
    }});
    let text = serde_json::to_string_pretty(&config).context("failed to write JSON")?;
    let path = at.write("envoy.json", &text)?;
    let mut arguments = vec!["--config-path".into(), path.into()];
    let rest = "--concurrency 1 --disable-hot-restart --log-level error";
    arguments.extend(rest.split(' ').map(Into::into));
    Ok((program.into(), arguments))
}

fn listener(at: &Surroundings<'_>, entry: Entry) -> Value {
    let name = entry.name();
    let to = json!({"cluster": name, "timeout": "0s"});
    let routes: Vec<_> = match entry {
        Entry::Plain | Entry::Tls | Entry::Streams => {
            vec![json!({"match": {"prefix": "/"}, "route": to})]
        }
        // As control planes write them: one after another.
        Entry::Routes => (0..ROUTES)
            .map(|number| json!({"match": {"prefix": format!("/route-{number}/")}, "route": to}))
            .collect(),
    };
    let router = json!({"@type": ROUTER, "dynamic_stats": false, "suppress_envoy_headers": true});
    let manager = json!({
        "@type": HTTP,
        "stat_prefix": name,
        "codec_type": if entry == Entry::Streams { "HTTP2" } else { "HTTP1" },
        "generate_request_id": false,
        "stream_idle_timeout": "0s",
        "common_http_protocol_options": {"idle_timeout": "3600s"},
        "route_config": {"virtual_hosts": [{"name": name, "domains": ["*"], "routes": routes}]},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": router}],
    });
    json!({
        "name": name,
        "address": address("127.0.0.1", at.port(entry)),
        "tcp_backlog_size": 4096,
        "filter_chains": [{"filters": [{
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": manager,
        }]}],
    })
}

fn cluster(at: &Surroundings<'_>, entry: Entry) -> Value {
    let name = entry.name();
    let backend = address(&at.backend.to_string(), entry.backend_port());
    let endpoint = json!({"endpoint": {"address": backend}});
    let version = match entry {
        Entry::Streams => json!({"http2_protocol_options": {}}),
        Entry::Plain | Entry::Tls | Entry::Routes => json!({"http_protocol_options": {}}),
    };
    let mut cluster = json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
        "circuit_breakers": {"thresholds": [{
            "max_connections": PLENTY, "max_pending_requests": PLENTY, "max_requests": PLENTY,
        }]},
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions":
                {"@type": PROTOCOL, "explicit_http_config": version},
        },
    });
    if entry == Entry::Tls {
        let context = json!({
            "trusted_ca": {"filename": at.files.join("ca.pem")},
            "match_typed_subject_alt_names":
                [{"san_type": "DNS", "matcher": {"exact": backend::NAME}}],
        });
        cluster["transport_socket"] = json!({
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": TLS,
                "sni": backend::NAME,
                "common_tls_context": {"validation_context": context},
            },
        });
    }
    cluster
}

fn address(address: &str, port: u16) -> Value {
    json!({"socket_address": {"address": address, "port_value": port}})
}
