//! The agent: what it reads, and whether it carries requests at all.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result};
use harness::manifest::{self, Acceleration};
use harness::wait::{PATIENCE, pause};
use harness::{Agent, Pod, agent};

use super::backend;
use super::load;
use super::proxy::{Entry, PLENTY, Proxy, ROUTES, SERVICE_PORT};

/// The field that the agent's routes add to each response: without it, a response did not pass the agent.
pub(crate) const FIELD: &str = "x-carried-by";

/// Most rules that Gateway API lets one `HTTPRoute` have.
const RULES: usize = 16;

/// The agent of the client's node, while it is not needed too.
#[derive(Debug)]
pub(crate) struct Mesh {
    client: Pod,
    server: Pod,
    agent: Option<Agent>,
    arguments: Vec<&'static str>,
}

impl Mesh {
    /// Writes the manifests.
    pub(crate) fn new(client: &Pod, server: &Pod, ca: &str) -> Result<Self> {
        for pod in [client, server] {
            manifest::write(pod, Acceleration::On)?;
        }
        let path = client.node().manifests().join("l7.yaml");
        let text = manifests(server, ca).context("failed to format")?;
        fs::write(&path, text).with_context(|| format!("failed to write `{}`", path.display()))?;
        let help = Command::new(agent::program()?)
            .args(["run", "--help"])
            .output();
        let help = help.context("failed to start the agent")?;
        let mut arguments = Vec::new();
        if String::from_utf8_lossy(&help.stdout).contains("--data-threads") {
            arguments.extend(["--data-threads", "1"]);
        } else {
            eprintln!("the agent has no `--data-threads`: it takes as many as it likes");
        }
        Ok(Self {
            client: client.clone(),
            server: server.clone(),
            agent: None,
            arguments,
        })
    }

    /// Starts the agent, and returns its process once it answers.
    pub(crate) fn start(&mut self) -> Result<u32> {
        let wrapper = load::preferring(crate::worker::PROXY_CORE);
        let wrapper = wrapper.each_ref().map(String::as_str);
        let agent = match self.agent.take() {
            Some(mut agent) => {
                agent.start_again()?;
                agent
            }
            None => Agent::start_through(self.client.node(), &wrapper, &self.arguments)?,
        };
        self.agent.insert(agent).pid().context("no agent")
    }

    /// Takes the agent out of the kernel, so that it slows nobody else down.
    pub(crate) fn stop(&mut self) -> Result<()> {
        self.agent.as_mut().map_or(Ok(()), Agent::uninstall)
    }

    /// Returns why requests do not pass the agent, or `None` when they do.
    pub(crate) fn lacking(&self, entry: Entry) -> Result<Option<String>> {
        let address = Proxy::Underpass.address(entry, self.server.v4());
        let address = address.context("no service")?;
        let path = if entry == Entry::Routes {
            "/route-500/1kb"
        } else {
            "/1kb"
        };
        let mut last = String::new();
        // The first connections may go where the agent has not yet come.
        for _ in 0..20 {
            match load::ask(&self.client, address, path, entry == Entry::Streams) {
                Ok(fields) if fields.lines().any(|line| line.starts_with(FIELD)) => {
                    return Ok(None);
                }
                Ok(fields) => {
                    last = format!("responses lack `{FIELD}`, which their route adds:\n{fields}")
                }
                Err(error) => last = format!("{error:#}"),
            }
            pause(PATIENCE / 200);
        }
        let lines = last.lines().map(str::trim).filter(|line| !line.is_empty());
        let lines = lines.take_while(|line| *line != "Stack backtrace:");
        Ok(Some(lines.collect::<Vec<_>>().join("; ")))
    }
}

/// Returns a service for each entry, with its routes, and what says that the backend of one speaks TLS.
fn manifests(server: &Pod, ca: &str) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    for entry in Entry::ALL {
        let (name, target) = (entry.name(), entry.backend_port());
        let address = Proxy::Underpass.address(entry, server.v4());
        let vip = address.map_or_else(String::new, |address| address.ip().to_string());
        let protocol = match entry {
            Entry::Streams => "kubernetes.io/h2c",
            Entry::Plain | Entry::Tls | Entry::Routes => "http",
        };
        writeln!(
            text,
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: default}}\n\
             spec:\n  clusterIP: {vip}\n  clusterIPs: [{vip}]\n  \
             ports: [{{name: web, port: {SERVICE_PORT}, targetPort: {target}, protocol: TCP, appProtocol: {protocol}}}]\n\
             ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {name}\n  namespace: default\n  \
             labels: {{kubernetes.io/service-name: {name}}}\naddressType: IPv4\n\
             ports: [{{name: web, port: {target}, protocol: TCP, appProtocol: {protocol}}}]\n\
             endpoints:\n- addresses: [{}]\n  conditions: {{ready: true}}",
            server.v4()
        )?;
        // As Envoy's: where the machine stands still for a moment, requests at a fixed rate are more than the default lets through.
        writeln!(
            text,
            "---\napiVersion: underpass.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: {name}, namespace: default}}\n\
             spec:\n  targetRefs: [{{group: \"\", kind: Service, name: {name}}}]\n  \
             circuitBreaker: {{maxConnections: {PLENTY}, maxPending: {PLENTY}, maxRequests: {PLENTY}}}"
        )?;
        let prefixes: Vec<_> = match entry {
            Entry::Routes => (0..ROUTES)
                .map(|number| format!("/route-{number}"))
                .collect(),
            Entry::Plain | Entry::Tls | Entry::Streams => vec!["/".to_owned()],
        };
        for (number, prefixes) in prefixes.chunks(RULES).enumerate() {
            write!(
                text,
                "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n\
                 metadata: {{name: {name}-{number}, namespace: default}}\n\
                 spec:\n  parentRefs: [{{group: \"\", kind: Service, name: {name}, port: {SERVICE_PORT}}}]\n  rules:\n"
            )?;
            for prefix in prefixes {
                writeln!(
                    text,
                    "  - matches: [{{path: {{type: PathPrefix, value: {prefix}}}}}]\n    \
                     filters: [{{type: ResponseHeaderModifier, responseHeaderModifier: {{set: [{{name: {FIELD}, value: underpass}}]}}}}]\n    \
                     backendRefs: [{{name: {name}, port: {SERVICE_PORT}}}]"
                )?;
            }
        }
    }
    writeln!(
        text,
        "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: ca, namespace: default}}\ndata:\n  ca.crt: |\n    {}\n\
         ---\napiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {{name: tls, namespace: default}}\n\
         spec:\n  targetRefs: [{{group: \"\", kind: Service, name: {}}}]\n  \
         validation: {{hostname: {}, caCertificateRefs: [{{group: \"\", kind: ConfigMap, name: ca}}]}}",
        ca.trim_end().replace('\n', "\n    "),
        Entry::Tls.name(),
        backend::NAME
    )?;
    Ok(text)
}
