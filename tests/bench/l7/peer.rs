//! The peers, in the client's pod, with one thread each and configured for speed.
//!
//! None writes an access log, all keep connections to the backend, and none ends a connection for its age. They listen on the
//! pod's loopback, which is the shortest way a client can have to a proxy of its own.

mod envoy;

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use harness::machine::has_program;
use harness::{Pod, Running};

use super::proxy::{Entry, Proxy, ROUTES};
use super::{backend, load};
use crate::worker::PROXY_CORE;

/// A running peer.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) proxy: Proxy,
    pub(crate) running: Running,
}

/// Where a peer leads to, and where its files are.
#[derive(Clone, Copy, Debug)]
struct Surroundings<'a> {
    proxy: Proxy,
    files: &'a Path,
    backend: Ipv4Addr,
}

impl Surroundings<'_> {
    fn port(&self, entry: Entry) -> u16 {
        let address = self.proxy.address(entry, self.backend);
        address.map_or(0, |address| address.port())
    }

    fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.files.join(name);
        fs::write(&path, text).with_context(|| format!("failed to write `{}`", path.display()))?;
        Ok(path)
    }
}

/// Returns why `proxy` cannot run here, or `None` when it can.
pub(crate) fn lacking(proxy: Proxy) -> Option<String> {
    let missing = |name: &str| format!("no `{name}`: `cargo xtask setup` installs it");
    match proxy {
        Proxy::Nginx | Proxy::Haproxy => {
            // Debian keeps both where only root's path leads.
            let here =
                has_program(proxy.name()) || Path::new("/usr/sbin").join(proxy.name()).is_file();
            (!here).then(|| missing(proxy.name()))
        }
        Proxy::Envoy => tool("envoy").is_none().then(|| missing("envoy")),
        Proxy::Pingora => tool("pingora-peer")
            .is_none()
            .then(|| missing("pingora-peer")),
        Proxy::Underpass | Proxy::Direct => None,
    }
}

/// Returns where a program is that `cargo xtask setup` put into `target/tools`.
fn tool(name: &str) -> Option<PathBuf> {
    let own = std::env::current_exe().ok()?;
    let mut places = own.ancestors().map(|place| place.join("tools").join(name));
    places.find(|path| path.is_file())
}

/// Starts a peer, and returns once it listens everywhere.
pub(crate) fn start(proxy: Proxy, pod: &Pod, files: &Path, backend: Ipv4Addr) -> Result<Peer> {
    let surroundings = Surroundings {
        proxy,
        files,
        backend,
    };
    let (program, arguments) = match proxy {
        Proxy::Nginx => nginx(&surroundings)?,
        Proxy::Haproxy => haproxy(&surroundings)?,
        Proxy::Envoy => envoy::command(&surroundings, tool("envoy").context("no envoy")?)?,
        Proxy::Pingora => pingora(&surroundings, tool("pingora-peer").context("no pingora")?),
        Proxy::Underpass | Proxy::Direct => anyhow::bail!("{proxy} is no peer"),
    };
    // As a sidecar's. The agent's memory is not the client's either.
    let container = pod.container(proxy.name())?;
    let mut command = load::pinned(&container, PROXY_CORE, &program);
    command.args(arguments);
    let mut running = pod.start(proxy.name(), &mut command)?;
    for entry in Entry::ALL {
        backend::listening(pod, &mut running, surroundings.port(entry))
            .with_context(|| format!("{proxy}, {}", entry.name()))?;
    }
    Ok(Peer { proxy, running })
}

type Program = (OsString, Vec<OsString>);

fn nginx(at: &Surroundings<'_>) -> Result<Program> {
    let here = at.files.display();
    let backend = at.backend;
    let mut text = format!(
        "worker_processes 1;\ndaemon off;\npid {here}/nginx.pid;\nerror_log stderr error;\n\
         events {{ worker_connections 8192; }}\n\
         http {{\n access_log off;\n tcp_nodelay on;\n server_tokens off;\n keepalive_requests 1000000000;\n keepalive_timeout 1h;\n \
         client_body_temp_path {here}/nginx-body;\n proxy_temp_path {here}/nginx-proxy;\n \
         fastcgi_temp_path {here}/nginx-fastcgi;\n uwsgi_temp_path {here}/nginx-uwsgi;\n scgi_temp_path {here}/nginx-scgi;\n \
         proxy_http_version 1.1;\n proxy_set_header Connection \"\";\n \
         proxy_buffers 16 8k;\n proxy_max_temp_file_size 0;\n \
         proxy_ssl_verify on;\n proxy_ssl_trusted_certificate {here}/ca.pem;\n proxy_ssl_name {name};\n proxy_ssl_server_name on;\n",
        name = backend::NAME,
    );
    for entry in Entry::ALL {
        let (name, backend_port) = (entry.name(), entry.backend_port());
        let http2 = if entry == Entry::Streams {
            " http2"
        } else {
            ""
        };
        write!(
            text,
            " upstream {name} {{ server {backend}:{backend_port}; keepalive 1024; keepalive_requests 1000000000; keepalive_timeout 1h; }}\n \
             server {{\n  listen 127.0.0.1:{}{http2} backlog=4096;\n",
            at.port(entry)
        )?;
        match entry {
            Entry::Plain => writeln!(text, "  location / {{ proxy_pass http://{name}; }}")?,
            Entry::Tls => writeln!(text, "  location / {{ proxy_pass https://{name}; }}")?,
            // The one module of nginx that speaks HTTP/2 to a backend; it takes any request.
            Entry::Streams => writeln!(text, "  location / {{ grpc_pass grpc://{name}; }}")?,
            Entry::Routes => {
                for number in 0..ROUTES {
                    writeln!(
                        text,
                        "  location /route-{number}/ {{ proxy_pass http://{name}; }}"
                    )?;
                }
            }
        }
        text.push_str(" }\n");
    }
    text.push_str("}\n");
    let path = at.write("nginx.conf", &text)?;
    let arguments = ["-c".into(), path.into(), "-e".into(), "stderr".into()];
    Ok(("nginx".into(), arguments.into()))
}

fn haproxy(at: &Surroundings<'_>) -> Result<Program> {
    let backend = at.backend;
    let mut map = String::new();
    for number in 0..ROUTES {
        writeln!(map, "/route-{number}/ routes")?;
    }
    let map = at.write("haproxy.map", &map)?;
    let mut text = "global\n nbthread 1\n maxconn 8000\n\
         defaults\n mode http\n http-reuse always\n option dontlog-normal\n timeout connect 5s\n timeout client 1h\n timeout server 1h\n \
         timeout http-keep-alive 1h\n maxconn 8000\n"
        .to_owned();
    for entry in Entry::ALL {
        let (name, port, backend_port) = (entry.name(), at.port(entry), entry.backend_port());
        let (proto, server) = match entry {
            Entry::Plain | Entry::Routes => ("", String::new()),
            Entry::Tls => (
                "",
                format!(
                    " ssl verify required ca-file {} sni str({name}) verifyhost {name}",
                    at.files.join("ca.pem").display(),
                    name = backend::NAME
                ),
            ),
            Entry::Streams => (" proto h2", " proto h2".to_owned()),
        };
        let choice = match entry {
            Entry::Routes => format!("use_backend %[path,map_beg({})]", map.display()),
            Entry::Plain | Entry::Tls | Entry::Streams => format!("default_backend {name}"),
        };
        write!(
            text,
            "frontend in-{name}\n bind 127.0.0.1:{port} backlog 4096{proto}\n {choice}\n\
             backend {name}\n server backend {backend}:{backend_port} pool-purge-delay 1h{server}\n"
        )?;
    }
    let path = at.write("haproxy.cfg", &text)?;
    Ok((
        "haproxy".into(),
        ["-db".into(), "-f".into(), path.into()].into(),
    ))
}

fn pingora(at: &Surroundings<'_>, program: PathBuf) -> Program {
    let mut arguments = vec![at.files.join("ca.pem").into_os_string()];
    for entry in Entry::ALL {
        let kind = match entry {
            Entry::Plain => "plain",
            Entry::Tls => "tls",
            Entry::Routes => "routes",
            Entry::Streams => "2",
        };
        let (port, backend, to) = (at.port(entry), at.backend, entry.backend_port());
        arguments.push(format!("{kind}=127.0.0.1:{port}={backend}:{to}").into());
    }
    (program.into_os_string(), arguments)
}
