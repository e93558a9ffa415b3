//! Every metric with its labels and meaning: the one place where they are named.
//!
//! Collectors cannot emit what is not here; a test keeps the table below, `METRICS.md`, in line.
//!
#![doc = include_str!("METRICS.md")]
#![forbid(unsafe_code)]

/// What kind of metric it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Cumulative buckets, sum and count.
    Histogram,
    /// Sum and count only.
    Summary,
}

impl Kind {
    /// Returns the word for this kind in the text format.
    pub fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::Summary => "summary",
        }
    }
}

/// One metric.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Metric {
    /// Its name, `mesh_<noun>_<base unit plural>[_total]`; those of the process have Prometheus' usual names.
    pub name: &'static str,
    /// Its kind.
    pub kind: Kind,
    /// Its labels, in the order in which values are given.
    pub labels: &'static [&'static str],
    /// What it says, one sentence.
    pub help: &'static str,
}

/// Label value for an end of a flow that is not a workload of this node, and for a service whose name is not known.
pub const UNKNOWN: &str = "unknown";

/// Label value under which everything beyond the bound of series is added up. No workload can have this name.
pub const OTHER: &str = "__other__";

const PAIR: &[&str] = &[
    "source_namespace",
    "source",
    "destination_namespace",
    "destination",
    "destination_port",
    "destination_service_namespace",
    "destination_service",
];

const PAIR_PATH: &[&str] = &[
    "source_namespace",
    "source",
    "destination_namespace",
    "destination",
    "destination_port",
    "destination_service_namespace",
    "destination_service",
    "path",
];

const PAIR_PATH_DIRECTION: &[&str] = &[
    "source_namespace",
    "source",
    "destination_namespace",
    "destination",
    "destination_port",
    "destination_service_namespace",
    "destination_service",
    "path",
    "direction",
];

const HTTP_ROUTE: &[&str] = &[
    "source_namespace",
    "source",
    "destination_service_namespace",
    "destination_service",
    "destination_port",
    "backend_namespace",
    "backend",
    "route",
];

const HTTP_ROUTE_PART: &[&str] = &[
    "source_namespace",
    "source",
    "destination_service_namespace",
    "destination_service",
    "destination_port",
    "backend_namespace",
    "backend",
    "route",
    "part",
];

const HTTP_REQUEST: &[&str] = &[
    "source_namespace",
    "source",
    "destination_service_namespace",
    "destination_service",
    "destination_port",
    "backend_namespace",
    "backend",
    "route",
    "status",
    "grpc_status",
    "flag",
];

const HTTP_REFUSAL: &[&str] = &[
    "source_namespace",
    "source",
    "destination_service_namespace",
    "destination_service",
    "destination_port",
    "status",
];

const CLUSTER: &[&str] = &["service_namespace", "service", "port"];

const CLUSTER_STATE: &[&str] = &["service_namespace", "service", "port", "state"];

const TCP_END: &[&str] = &["service_namespace", "service", "port", "end"];

const CLUSTER_KIND: &[&str] = &["service_namespace", "service", "port", "kind"];

/// Istio's labels, as its own proxies have them at the source.
pub const ISTIO_REQUEST: &[&str] = &[
    "reporter",
    "source_workload",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_canonical_service",
    "source_canonical_revision",
    "source_cluster",
    "destination_workload",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_canonical_service",
    "destination_canonical_revision",
    "destination_service",
    "destination_service_name",
    "destination_service_namespace",
    "destination_cluster",
    "request_protocol",
    "response_code",
    "grpc_response_status",
    "response_flags",
    "connection_security_policy",
];

/// The same of connections.
pub const ISTIO_TCP_LABELS: &[&str] = &[
    "reporter",
    "source_workload",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_canonical_service",
    "source_canonical_revision",
    "source_cluster",
    "destination_workload",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_canonical_service",
    "destination_canonical_revision",
    "destination_service",
    "destination_service_name",
    "destination_service_namespace",
    "destination_cluster",
    "request_protocol",
    "response_flags",
    "connection_security_policy",
];

const SERVICE: &[&str] = &["service_namespace", "service"];

const RULE_VERDICT: &[&str] = &[
    "kind",
    "namespace",
    "policy",
    "direction",
    "rule",
    "verdict",
];

macro_rules! metrics {
    ($($const:ident $kind:ident $name:literal $labels:expr, $help:literal;)*) => {
        $(#[doc = $help] pub const $const: Metric = Metric { name: $name, kind: Kind::$kind, labels: $labels, help: $help };)*

        /// Every metric, in the order of the README's table.
        pub const ALL: &[Metric] = &[$($const),*];
    };
}

metrics! {
    FLOW_BYTES Counter "mesh_flow_bytes_total" PAIR_PATH_DIRECTION,
        "Bytes that applications sent to each other, by path (tcp, redirect) and direction (to_destination, to_source).";
    FLOW_MESSAGES Counter "mesh_flow_messages_total" PAIR_PATH_DIRECTION,
        "Messages (calls that sent or received at least one byte), by path and direction.";
    FLOWS_OPENED Counter "mesh_flows_opened_total" PAIR,
        "Connections established.";
    FLOWS_FAILED Counter "mesh_flows_failed_total" PAIR,
        "Connections that were never established.";
    FLOWS_CLOSED Counter "mesh_flows_closed_total" PAIR_PATH,
        "Connections that ended, by the path that their bytes had taken (tcp, redirect, mixed).";
    RETRANSMITS Counter "mesh_flow_retransmits_total" PAIR,
        "Segments that TCP sent again.";
    RTT Summary "mesh_flow_rtt_seconds" PAIR,
        "Smoothed round-trip time as TCP knew it at the end of each flow.";
    CONNECT Histogram "mesh_flow_connect_duration_seconds" PAIR,
        "Time from connect() to the established connection.";
    TURNAROUND Histogram "mesh_flow_turnaround_duration_seconds" PAIR_PATH,
        "Time from a request's first byte to its answer's first byte, as the source saw it.";
    FLOWS_OPEN Gauge "mesh_flows_open" &["path", "reason"],
        "Live connections, by path and the reason why they are not (wholly) redirected.";
    FLOWS_ENDED Counter "mesh_flows_ended_total" &["path", "reason"],
        "Connections that ended, by path and the reason why they were not (wholly) redirected.";
    REDIRECTED_MESSAGES Counter "mesh_redirected_messages_total" &[],
        "Messages that went from socket to socket, past the network stack.";
    DEMOTIONS Counter "mesh_redirect_demotions_total" &[],
        "Times a flow went from redirect to TCP because too much was in flight.";
    STALLS Counter "mesh_flow_stalls_total" &[],
        "Redirected flows that the stall guard reset because nobody read their bytes.";
    SPURIOUS_EAGAIN Counter "mesh_spurious_eagain_total" &[],
        "Blocking receive calls that failed with EAGAIN because their socket took part in redirect.";
    CAPTURED Gauge "mesh_captured_connections" &[],
        "Connections of workloads that go through the agent now.";
    CAPTURE_FAILED Counter "mesh_capture_failures_total" &["reason"],
        "Connections that were to go through the agent and could not: as many as may be did (busy), the agent was not told what was dialled for want of memory (lost), or it was away and the service fails closed (away).";
    POLICY_DECISIONS Counter "mesh_policy_decisions_total" RULE_VERDICT,
        "Connections and first datagrams that a policy rule decided, by verdict (allowed, denied, would_deny); those that were denied because no rule allows them have empty names.";
    POLICY_UNRECORDED Counter "mesh_policy_denials_unrecorded_total" &[],
        "Denials that no flow record was made of, since their workload had many.";
    POLICY_ERRORS Gauge "mesh_policy_errors" &[],
        "Policies, or parts of them, that are not in force as configured; what they are about is closed.";
    REDIRECT_ALLOWED Gauge "mesh_redirect_allowed" &[],
        "1 when messages may be redirected, 0 when the kill switch is on.";
    RECORDS_LOST Counter "mesh_flow_records_lost_total" &[],
        "Flow records that found no room in the kernel's ring buffer; pair counters have their bytes.";
    PAIRS_OVERFLOWED Counter "mesh_pairs_overflowed_total" &[],
        "Times a pair found no row in the kernel's map and was counted in the overflow row.";
    STATE_FAILED Counter "mesh_socket_state_failures_total" &[],
        "Sockets whose state could not be allocated; their flows are not counted.";
    FOLLOWER_LOST Counter "mesh_follower_records_lost_total" &[],
        "Flow records that readers of the flow stream lost because they read too slowly.";
    PAIRS_FOLDED Gauge "mesh_pairs_folded" &[],
        "Rows of the kernel's pair counters that are added up under __other__, beyond the bound of 256 pairs.";
    MAP_ENTRIES Gauge "mesh_map_entries" &["map"],
        "Entries in use in a kernel map.";
    MAP_LIMIT Gauge "mesh_map_limit_entries" &["map"],
        "Entries that a kernel map can hold.";
    PROBE_LEVEL Gauge "mesh_probe_level" &["level"],
        "1 for the level to which this kernel's redirect can be trusted, 0 for the others.";
    PROBE_DEFECT Gauge "mesh_probe_defect" &["defect"],
        "1 for each defect of this kernel's redirect that the start-up probe found.";
    HOOK_ATTACHED Gauge "mesh_hook_attached" &["program"],
        "1 for a kernel program that is attached where it has to be, 0 for one that is not.";
    CONFIG_GENERATION Gauge "mesh_config_generation" &[],
        "Generation of the configuration that was read last.";
    KERNEL_GENERATION Gauge "mesh_kernel_generation" &[],
        "Generation of the configuration that the kernel maps are in line with.";
    CONFIG_READ Gauge "mesh_config_read_seconds" &[],
        "Time that reading and resolving the manifests took when the configuration last changed.";
    CONFIG_APPLY Gauge "mesh_config_apply_seconds" &["part"],
        "Time from when the configuration was read until the kernel maps were in line with a part of it (workloads, services, policies), at its last change.";
    CONFIG_ERRORS Gauge "mesh_config_errors" &[],
        "Errors in the configuration that was read last.";
    WORKLOADS Gauge "mesh_workloads" &["state"],
        "Configured workloads, by how they stand.";
    ENROLLED Gauge "mesh_enrolled_workloads" &["state"],
        "Pods of this node that are in the mesh, by whether their connections are captured: captured, not_captured.";
    NOT_CAPTURED Gauge "mesh_workloads_not_captured" &["namespace", "pod", "reason"],
        "1 for each pod of this node that is in the mesh and not captured, by why: host_network, not_started, not_found, taken, table_full, outside, rejected; the first 100 by name.";
    SERVICES Gauge "mesh_services" &["state"],
        "Services with an address of their own, by how they stand: balanced, panic, without_backend, not_in_force.";
    SERVICE_CONNECTS Counter "mesh_service_connects_total" SERVICE,
        "Connects and first datagrams to a service, of this node's workloads.";
    SERVICE_REFUSED Counter "mesh_service_refused_total" SERVICE,
        "Of those, the ones for which there was no backend.";
    SERVICE_BACKENDS Gauge "mesh_service_backends" &["service_namespace", "service", "state"],
        "Backends of a service, by their health as this node sees it.";
    SERVICES_FOLDED Gauge "mesh_services_folded" &[],
        "Services that are added up under __other__, beyond the bound of 1000.";
    DNS_LISTENING Gauge "mesh_dns_listening_workloads" &[],
        "Workloads inside of which the agent answers name queries.";
    DNS_QUERIES Counter "mesh_dns_queries_total" &["outcome"],
        "Name queries by what became of them: answered from the known services, forwarded, failed, refused, dropped.";
    HTTP_REQUESTS Counter "mesh_http_requests_total" HTTP_REQUEST,
        "Requests that went through the agent and have ended, by class of status (2xx, or none), status of gRPC and the response flag that tells most (the first that is neither DI nor URX, if there is one); backend is the service whose endpoints they were for.";
    HTTP_DURATION Histogram "mesh_http_request_duration_seconds" HTTP_REQUEST,
        "Time from a request's head to the end of its response.";
    HTTP_REQUEST_BYTES Counter "mesh_http_request_body_bytes_total" HTTP_REQUEST,
        "Bytes of requests' bodies.";
    HTTP_RESPONSE_BYTES Counter "mesh_http_response_body_bytes_total" HTTP_REQUEST,
        "Bytes of responses' bodies.";
    HTTP_RETRIES Counter "mesh_http_retries_total" HTTP_ROUTE,
        "Attempts after the first.";
    HTTP_TIME Counter "mesh_http_request_time_seconds_total" HTTP_ROUTE_PART,
        "Where the time of requests went: agent (deciding, delays, pauses), connect (waiting for a connection), upstream (until the head of the response), transfer (from then on); the sum of the four is that of the durations.";
    HTTP_REFUSED Counter "mesh_http_malformed_requests_total" HTTP_REFUSAL,
        "What came on connections for HTTP and was no request, by the status that it was answered with; beyond 1000 sets of labels they are added up under __other__.";
    HTTP_LABEL_SETS Gauge "mesh_http_label_sets" &[],
        "Sets of labels that requests are counted by; beyond the bound of 10000 they are added up under __other__, and after 10 minutes without a request from its source to its service (with Istio's names, to its pod) a set goes.";
    HTTP_LEFT_OUT Counter "mesh_http_unlisted_requests_total" &[],
        "Requests that flows --requests does not show, since more than 100 ended in a second on one thread; failed ones are counted apart, and have as much room again.";
    HTTP_LOG_LINES Counter "mesh_http_access_log_lines_total" &["outcome"],
        "Lines of the access log, by what became of them: written, dropped.";
    HTTP_SPANS Counter "mesh_http_spans_total" &["outcome"],
        "Spans, by what became of them: exported, dropped, rejected by the collector.";
    HTTP_CONNECTIONS Gauge "mesh_http_pool_connections" &["state"],
        "Connections to endpoints, by whether a request has them: active, idle.";
    TCP_CONNECTIONS Counter "mesh_tcp_connections_total" TCP_END,
        "Connections that went through the agent byte by byte and have ended, by the service port that was dialled and how they ended: closed, client_reset, upstream_reset, idle, agent (it stopped, or the workload was gone), no_endpoint, overflow, denied, connect_failed.";
    TCP_RECEIVED Counter "mesh_tcp_received_bytes_total" CLUSTER,
        "Bytes that such connections brought from clients.";
    TCP_SENT Counter "mesh_tcp_sent_bytes_total" CLUSTER,
        "Bytes that such connections took to clients.";
    CLUSTER_ENDPOINTS Gauge "mesh_http_cluster_endpoints" CLUSTER_STATE,
        "Endpoints that requests to a service port may go to: in_use, and those that are ejected for their answers; as all that is told of clusters, of the first 1000 by name.";
    CLUSTER_EJECTIONS Counter "mesh_http_cluster_ejections_total" CLUSTER,
        "Times an endpoint was ejected for its answers.";
    CLUSTER_IN_FLIGHT Gauge "mesh_http_cluster_in_flight" CLUSTER_KIND,
        "What is in flight to a service port: requests, pending (that wait for a connection), connections, retries.";
    CLUSTER_LIMIT Gauge "mesh_http_cluster_limit" CLUSTER_KIND,
        "How much of it may be, by circuit breaker or adaptive concurrency.";
    CLUSTER_OVERFLOWS Counter "mesh_http_cluster_overflows_total" CLUSTER_KIND,
        "Times that a limit said no.";
    KERNEL_READ_ERRORS Counter "mesh_kernel_read_errors_total" &[],
        "Reads of kernel maps that failed while metrics were collected; what they would have said is missing.";
    BUILD_INFO Gauge "mesh_build_info" &["version"],
        "Always 1; the label is the agent's version.";
    PROCESS_CPU Counter "process_cpu_seconds_total" &[],
        "User and system CPU time of the agent.";
    PROCESS_RESIDENT Gauge "process_resident_memory_bytes" &[],
        "Resident memory of the agent.";
    PROCESS_VIRTUAL Gauge "process_virtual_memory_bytes" &[],
        "Virtual memory of the agent.";
    PROCESS_FDS Gauge "process_open_fds" &[],
        "Open file descriptors of the agent.";
    PROCESS_MAX_FDS Gauge "process_max_fds" &[],
        "File descriptors that the agent may open.";
    PROCESS_THREADS Gauge "process_threads" &[],
        "Threads of the agent.";
    PROCESS_START Gauge "process_start_time_seconds" &[],
        "When the agent started, in seconds since 1970.";
}

macro_rules! istio {
    ($all:ident $all_doc:literal: $($const:ident $kind:ident $name:literal $labels:expr, $help:literal;)*) => {
        $(#[doc = $help] pub const $const: Metric = Metric { name: $name, kind: Kind::$kind, labels: $labels, help: $help };)*

        #[doc = $all_doc]
        pub const $all: &[Metric] = &[$($const),*];
    };
}

istio! {
    ISTIO "Requests under Istio's names, which `--http-metrics-names istio` gives in the place of the mesh's own.":
    ISTIO_REQUESTS Counter "istio_requests_total" ISTIO_REQUEST,
        "Requests that went through the agent and have ended.";
    ISTIO_DURATION Histogram "istio_request_duration_milliseconds" ISTIO_REQUEST,
        "Time from a request's head to the end of its response.";
    ISTIO_REQUEST_BYTES Histogram "istio_request_bytes" ISTIO_REQUEST,
        "Bytes of requests' bodies.";
    ISTIO_RESPONSE_BYTES Histogram "istio_response_bytes" ISTIO_REQUEST,
        "Bytes of responses' bodies.";
    ISTIO_REQUEST_MESSAGES Counter "istio_request_messages_total" ISTIO_REQUEST,
        "Messages that clients sent in calls of gRPC that have ended.";
    ISTIO_RESPONSE_MESSAGES Counter "istio_response_messages_total" ISTIO_REQUEST,
        "Messages that such calls were answered with.";
}

istio! {
    ISTIO_TCP "Connections under Istio's names, which `--http-metrics-names istio` adds.":
    ISTIO_TCP_RECEIVED Counter "istio_tcp_received_bytes_total" ISTIO_TCP_LABELS,
        "Bytes that workloads of this node sent on connections that carry no requests of these.";
    ISTIO_TCP_SENT Counter "istio_tcp_sent_bytes_total" ISTIO_TCP_LABELS,
        "Bytes that they got on such connections.";
    ISTIO_TCP_OPENED Counter "istio_tcp_connections_opened_total" ISTIO_TCP_LABELS,
        "Such connections that were established; with the flag UF, those that were not.";
    ISTIO_TCP_CLOSED Counter "istio_tcp_connections_closed_total" ISTIO_TCP_LABELS,
        "Such connections that ended, in the same way.";
}

/// Returns whether the metric is about requests that go through the agent.
pub(in crate::telemetry) fn is_http(metric: &Metric) -> bool {
    ["mesh_http_", "mesh_tcp_"]
        .iter()
        .any(|it| metric.name.starts_with(it))
}

/// Returns the table of every metric as Markdown: the text of `METRICS.md`.
pub fn markdown() -> String {
    let mut text = String::from("| Metric | Kind | Labels | Meaning |\n|---|---|---|---|\n");
    for metric in ALL {
        let labels = match metric.labels {
            [] => "none".to_owned(),
            labels if labels.starts_with(PAIR) => {
                let more: Vec<_> = labels[PAIR.len()..]
                    .iter()
                    .map(|label| format!(", `{label}`"))
                    .collect();
                format!("pair{}", more.concat())
            }
            labels => format!("`{}`", labels.join("`, `")),
        };
        text += &format!(
            "| `{}` | {} | {labels} | {} |\n",
            metric.name,
            metric.kind.word(),
            metric.help
        );
    }
    text += &format!("\n`pair` stands for the labels `{}`.\n", PAIR.join("`, `"));
    text += "Those of the service are empty, which Prometheus takes for absent, where none was dialled.\n";
    text += "\nWith `--http-metrics-names istio`, requests, their durations and bytes have Istio's names in the place of `mesh_http_requests_total`, ";
    text += "`mesh_http_request_duration_seconds` and `mesh_http_{request,response}_body_bytes_total`, with exact statuses, ";
    text += "all response flags (three at most, joined by commas in Envoy's order: a handful of label sets more, within the same bound), ";
    text += "the pod that answered last (a label set for each, within the same bound) and `reporter=\"source\"`. All others stay.\n\n";
    text += "Workloads are pods. Application, version and canonical service are what a pod's labels say, in Istio's order; without, the canonical service is the pod ";
    text += "at the source and the service at the destination. Principals, clusters, and what secures a connection, are `unknown`. Messages are those of calls ";
    text += "with `application/grpc`, counted when the call has ended.\n\n";
    text += "`istio_tcp_...` are connections that workloads of this node dialled, but those that the agent makes for requests, and those of a workload to itself. What the ";
    text += "agent passes on byte by byte is among them, as its connection to the endpoint, and so is HTTP to a service port that needs no agent. ";
    text += "The destination is `unknown` on another node, the service where none was dialled. Of pairs beyond the bound the sum is under `__other__`; ";
    text +=
        "what found no place in the kernel's table (`mesh_pairs_overflowed_total`) is missing.\n\n";
    for metric in ISTIO.iter().chain(ISTIO_TCP) {
        let (name, kind) = (metric.name, metric.kind.word());
        text += &format!("- `{name}` ({kind}): {}\n", metric.help);
    }
    text
}
