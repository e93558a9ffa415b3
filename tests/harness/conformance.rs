//! What Gateway API asks of a mesh, in our words, as tables: who has to be asked for what while which routes are there, and what has to come.
//!
//! Two drivers run the same cases: one in network namespaces of this machine (`tests/e2e/conformance`), one in pods of a cluster
//! (`tests/cluster`). Both let the program `peer ask` ask and `peer answer` answer. What they call differently stands in angle brackets:
//! `<mesh>` and `<guest>` are namespaces, `<echo>` is the address of the service `echo` as it stands in a URL, `<echo/6>` its IPv6 address, and
//! `<pod v1>` the address of a backend's pod.

mod cases;
mod filters;
mod grpc;
mod matching;
mod names;
mod request;
mod route;
mod run;
mod selecting;
mod shares;

pub use cases::{Case, Check, Step, all};
pub use names::Names;
pub use request::{Client, Expected, Request, Seen};
pub use route::Route;
pub use run::{Driver, Outcome, run};

/// Services and the backends that answer for them. `mark` says which configuration is in force.
pub const SERVICES: [(&str, &[&str]); 6] = [
    ("echo", &["v1", "v2"]),
    ("echo-v1", &["v1"]),
    ("echo-v2", &["v2"]),
    ("echo-v3", &["v3"]),
    ("empty", &[]),
    ("mark", &["v1"]),
];

/// Backends: pods that answer.
pub const BACKENDS: [&str; 3] = ["v1", "v2", "v3"];

/// Ports of each service: name, number, where it leads, protocol, and what is spoken.
pub const PORTS: [(&str, u16, u16, &str, &str); 8] = [
    ("http", 80, 8080, "TCP", "http"),
    ("alt", 8080, 8080, "TCP", "http"),
    ("h2c", 81, 8080, "TCP", "kubernetes.io/h2c"),
    ("grpc", 7070, 8080, "TCP", "grpc"),
    ("raw", 9090, 8080, "TCP", "tcp"),
    ("udp", 9091, 9091, "UDP", "dns"),
    ("https", 443, 8443, "TCP", "https"),
    // What is spoken there is HTTP, to a backend that wants TLS.
    ("tls", 444, 8443, "TCP", "http"),
];

/// Returns a route that shows which configuration is in force: `mark` redirects to a host of this name.
pub fn mark(name: &str) -> String {
    let filter =
        format!("filters: [{{type: RequestRedirect, requestRedirect: {{hostname: {name}}}}}]");
    Route::new("HTTPRoute", "mark", "mark").rule(&filter)
}
