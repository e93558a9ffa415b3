//! Backends that speak TLS, and their certificates.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use harness::wait::PATIENCE;
use harness::{Running, wait_for};

use super::mesh::Mesh;

/// A directory with an authority `ca.crt`, another one `other.crt`, and certificates of servers.
#[derive(Debug)]
pub(super) struct Certificates(pub(super) PathBuf);

const NEW: &str = "openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";

impl Certificates {
    /// Makes all of them.
    pub(super) fn new(mesh: &Mesh, names: &[&str]) -> Self {
        let directory = mesh.node.files().join("certificates");
        fs::create_dir_all(&directory).unwrap();
        let mut lines = Vec::new();
        for name in ["ca", "other"] {
            lines.push(format!(
                "{NEW} -x509 -days 9 -subj /CN={name} -keyout {name}.key -out {name}.crt"
            ));
        }
        for name in names {
            let request = format!(
                "{NEW} -subj /CN={name} -addext subjectAltName=DNS:{name} -keyout {name}.key -out {name}.csr"
            );
            let sign = "-CA ca.crt -CAkey ca.key -CAcreateserial -copy_extensions copy -days 9";
            lines.push(format!(
                "{request} && openssl x509 -req -in {name}.csr {sign} -out {name}.crt"
            ));
        }
        let mut shell = Command::new("sh");
        let output = shell
            .args(["-ec", &lines.join("\n")])
            .current_dir(&directory)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        Self(directory)
    }

    /// Starts a server that says its backend's name for `/who`.
    pub(super) fn serve(&self, mesh: &Mesh, backend: usize, name: &str) -> Running {
        let pod = &mesh.backends[backend];
        let place = mesh.node.files().join(format!("site-{}", pod.name()));
        fs::create_dir_all(&place).unwrap();
        fs::write(
            place.join("who"),
            format!("{{\"backend\": \"{}\"}}\n", pod.name()),
        )
        .unwrap();
        let file = |ending: &str| self.0.join(format!("{name}.{ending}"));
        let mut command = pod.command("openssl");
        command.args(["s_server", "-WWW", "-accept", "8443", "-cert"]);
        command
            .arg(file("crt"))
            .arg("-key")
            .arg(file("key"))
            .current_dir(&place);
        let running = pod.start("tls", &mut command).unwrap();
        wait_for("the server to listen", PATIENCE, || {
            running.log().contains("ACCEPT")
        })
        .unwrap();
        running
    }

    /// Returns a `ConfigMap` with an authority.
    pub(super) fn config_map(&self, name: &str) -> String {
        let text = fs::read_to_string(self.0.join(format!("{name}.crt"))).unwrap();
        let lines: String = text.lines().map(|line| format!("    {line}\n")).collect();
        format!(
            "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: default}}\ndata:\n  ca.crt: |\n{lines}"
        )
    }
}
