//! The backends, in the server's pod: nginx for HTTP/1, and a small server of ours for HTTP/2.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use harness::wait::{PATIENCE, wait_for};
use harness::{Pod, Running};

use super::case::{LARGE, SMALL};
use super::load;
use crate::worker::{READY, SERVER_CORE_OF_THREE};

/// The port of HTTP/1.
pub(crate) const PLAIN: u16 = 8080;
/// The port of HTTP/1 inside TLS.
pub(crate) const TLS: u16 = 8443;
/// The port of HTTP/2.
pub(crate) const STREAMS: u16 = 8081;

/// The name in the certificate.
pub(crate) const NAME: &str = "backend.bench";

/// Running backends.
#[derive(Debug)]
pub(crate) struct Backends {
    _nginx: Running,
    _streams: Running,
}

/// Writes a certificate for [`NAME`], its key and the authority that signed it, as `cert.pem`, `key.pem` and `ca.pem`.
pub(crate) fn write_certificates(files: &Path) -> Result<()> {
    // Without it, the system's own settings add extensions of theirs.
    fs::write(
        files.join("openssl.cnf"),
        "[req]\ndistinguished_name = dn\n[dn]\n",
    )
    .context("failed to write openssl's configuration")?;
    let make = |arguments: String| -> Result<()> {
        let mut command = Command::new("openssl");
        command.current_dir(files).args(arguments.split(' '));
        let output = command.output().context("failed to start `openssl`")?;
        let wrote = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "`openssl {arguments}`: {wrote}");
        Ok(())
    };
    let common = "req -x509 -config openssl.cnf -days 30 -nodes -newkey ec -pkeyopt ec_paramgen_curve:prime256v1";
    make(format!(
        "{common} -subj /CN=bench -addext basicConstraints=critical,CA:TRUE -keyout ca.key -out ca.pem"
    ))?;
    make(format!(
        "{common} -subj /CN={NAME} -addext basicConstraints=critical,CA:FALSE -addext subjectAltName=DNS:{NAME} \
         -CA ca.pem -CAkey ca.key -keyout key.pem -out cert.pem"
    ))
}

/// Starts both, and returns once they answer.
pub(crate) fn start(pod: &Pod, files: &Path) -> Result<Backends> {
    let (small, large) = ("a".repeat(SMALL), "a".repeat(LARGE));
    let root = files.join("root");
    fs::create_dir_all(&root).context("failed to make a directory")?;
    fs::write(root.join("64kb"), large).context("failed to write a body")?;
    let here = files.display();
    let address = pod.v4();
    let config = format!(
        "worker_processes 1;\ndaemon off;\npid {here}/backend.pid;\nerror_log stderr error;\n\
         events {{ worker_connections 8192; }}\n\
         http {{\n access_log off;\n default_type text/plain;\n sendfile on;\n tcp_nopush on;\n tcp_nodelay on;\n server_tokens off;\n \
         keepalive_requests 1000000000;\n keepalive_timeout 1h;\n open_file_cache max=16 inactive=1h;\n \
         client_body_temp_path {here}/backend-body;\n proxy_temp_path {here}/backend-proxy;\n \
         fastcgi_temp_path {here}/backend-fastcgi;\n uwsgi_temp_path {here}/backend-uwsgi;\n scgi_temp_path {here}/backend-scgi;\n \
         server {{\n  listen {address}:{PLAIN} backlog=4096;\n  listen {address}:{TLS} ssl backlog=4096;\n  \
         ssl_certificate {here}/cert.pem;\n  ssl_certificate_key {here}/key.pem;\n  ssl_session_cache shared:tls:1m;\n  \
         root {here}/root;\n  location = /0b {{ return 200; }}\n  location = /64kb {{ }}\n  location / {{ return 200 {small}; }}\n }}\n}}\n"
    );
    let path = files.join("backend.conf");
    fs::write(&path, config).context("failed to write nginx's configuration")?;
    let mut command = load::pinned(pod, SERVER_CORE_OF_THREE, "nginx".as_ref());
    command.arg("-c").arg(&path).args(["-e", "stderr"]);
    let mut nginx = pod.start("backend", &mut command)?;
    listening(pod, &mut nginx, PLAIN)?;

    let own = std::env::current_exe().context("failed to find the running program")?;
    let mut command = load::pinned(pod, SERVER_CORE_OF_THREE, own.as_os_str());
    command.args(["worker", "http2-serve", "--address"]);
    command.arg(format!("{address}:{STREAMS}"));
    let mut streams = pod.start("backend-h2", &mut command)?;
    streams.line(READY, PATIENCE)?;
    Ok(Backends {
        _nginx: nginx,
        _streams: streams,
    })
}

/// Returns once somebody listens at `port` of `pod`: at its address, or at its loopback.
pub(super) fn listening(pod: &Pod, running: &mut Running, port: u16) -> Result<()> {
    let mut connected = || {
        let addresses = [pod.v4(), std::net::Ipv4Addr::LOCALHOST];
        let dial = || {
            addresses
                .iter()
                .any(|address| std::net::TcpStream::connect((*address, port)).is_ok())
        };
        pod.enter(dial).unwrap_or(false) || matches!(running.ended(), Ok(Some(_)) | Err(_))
    };
    let waited = wait_for(&format!("port {port}"), PATIENCE, &mut connected);
    let alive = running.ended()?.is_none();
    waited
        .and_then(|()| {
            ensure!(alive, "it ended early");
            Ok(())
        })
        .with_context(|| format!("it wrote:\n{}", running.log()))
}
