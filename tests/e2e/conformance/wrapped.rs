//! `BackendTLSPolicy` by version of HTTP, and beside clients that speak TLS themselves: nginx, with HTTP/2 above TLS and without.

use std::fmt::Write as _;
use std::fs;
use std::net::{SocketAddr, TcpStream};

use harness::machine::require_programs;
use harness::wait::PATIENCE;
use harness::{Running, wait_for};

use super::answer::Answer;
use super::mesh::{Mesh, Route, policy};
use super::secure::Certificates;

/// Name, address, backend.
type Service = (&'static str, &'static str, usize);

/// A service whose backend agrees to HTTP/2, and one whose backend agrees to HTTP/1.1 alone.
const MODERN: Service = ("modern", "10.96.1.20", 0);
const OLD: Service = ("old", "10.96.1.21", 1);

/// What all servers' certificates are for.
const NAME: &str = "a.example";

/// Ports of both, which lead to one: what is said of it.
const HTTP: u16 = 80;
const H2C: u16 = 81;
const UNSAID: u16 = 82;
const HTTPS: u16 = 443;
const PORTS: [(u16, &str); 4] = [
    (HTTP, "appProtocol: http"),
    (H2C, "appProtocol: kubernetes.io/h2c"),
    (UNSAID, "protocol: TCP"),
    (HTTPS, "appProtocol: https"),
];

const HTTP2: &str = "--http2-prior-knowledge";

struct Scene {
    // Dropped first.
    _servers: [Running; 2],
    certificates: Certificates,
    mesh: Mesh,
}

impl Scene {
    fn new() -> Option<Self> {
        if !require_programs(&["nginx"]) {
            return None;
        }
        let mesh = Mesh::new()?;
        let certificates = Certificates::new(&mesh, &[NAME]);
        let servers = [
            nginx(&mesh, &certificates, MODERN, " http2"),
            nginx(&mesh, &certificates, OLD, ""),
        ];
        Some(Self {
            _servers: servers,
            certificates,
            mesh,
        })
    }

    /// Puts services, their policies and these routes in force.
    fn apply(&self, routes: &str) {
        let mut text = self.certificates.config_map("ca") + routes;
        for it in [MODERN, OLD] {
            let validation = format!(
                "  validation: {{hostname: {NAME}, caCertificateRefs: [{{group: \"\", kind: ConfigMap, name: ca}}]}}"
            );
            let target = format!("name: {}", it.0);
            text += &service(&self.mesh, it);
            text += &policy("BackendTLSPolicy", it.0, &target, &validation);
        }
        self.mesh.routes(&text);
    }

    fn ask(&self, service: Service, port: u16, version: &str) -> Answer {
        let address = service.1;
        let url = format!("http://{address}:{port}{}", path(service, port, version));
        self.mesh.curl(&[version, &url])
    }

    /// Asks as a client that speaks TLS itself, to the end that has the certificate.
    fn ask_by_tls(&self, name: &str, address: &str, port: u16, version: &str) -> Answer {
        let authority = self.certificates.0.join("ca.crt").display().to_string();
        let resolve = format!("{name}:{port}:{address}");
        let url = format!("https://{name}:{port}/");
        let words = [version, "--cacert", &authority, "--resolve", &resolve, &url];
        self.mesh.curl(&words)
    }
}

/// Tells requests apart in the access log.
fn path(service: Service, port: u16, version: &str) -> String {
    format!("/{}/{port}/{version}", service.0)
}

/// Says which version of HTTP came in which TLS.
fn nginx(
    mesh: &Mesh,
    certificates: &Certificates,
    (name, _, backend): Service,
    more: &str,
) -> Running {
    let files = mesh.node.files().join(format!("nginx-{name}"));
    fs::create_dir_all(&files).unwrap();
    let pod = &mesh.backends[backend];
    let at = SocketAddr::new(pod.v4().into(), 8443);
    let (here, keys) = (files.display(), certificates.0.display());
    let answer = "{\\\"backend\\\": \\\"NAME\\\", \\\"by\\\": \\\"$server_protocol\\\", \\\"alpn\\\": \\\"$ssl_alpn_protocol\\\", \
                  \\\"for\\\": \\\"$ssl_server_name\\\"}\\n";
    let conf = format!(
        "daemon off; user root; worker_processes 1; pid {here}/pid; error_log stderr;\nevents {{}}\nhttp {{ access_log {here}/log;\n\
         client_body_temp_path {here}/a; proxy_temp_path {here}/b; fastcgi_temp_path {here}/c;\nuwsgi_temp_path {here}/d;\n\
         scgi_temp_path {here}/e; keepalive_requests 100; client_header_buffer_size 4k;\n\
         server {{ listen {at} ssl{more}; ssl_certificate {keys}/{NAME}.crt; ssl_certificate_key {keys}/{NAME}.key;\n\
         location / {{ return 200 \"{}\"; }} }} }}\n",
        answer.replace("NAME", name)
    );
    let path = files.join("nginx.conf");
    fs::write(&path, conf).unwrap();
    let mut command = pod.command("nginx");
    command.arg("-c").arg(path).args(["-e", "stderr"]);
    let running = pod.start(name, &mut command).unwrap();
    wait_for("nginx to listen", PATIENCE, || {
        pod.enter(|| TcpStream::connect(at)).unwrap().is_ok()
    })
    .unwrap();
    running
}

fn service(mesh: &Mesh, (name, address, backend): Service) -> String {
    let (mut ports, mut targets) = (String::new(), String::new());
    for (port, said) in PORTS {
        let entry = format!("- {{name: p{port}, port: {port}, targetPort: 8443, {said}}}");
        writeln!(ports, "    {entry}").unwrap();
        writeln!(targets, "  - {{name: p{port}, port: 8443, {said}}}").unwrap();
    }
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: default}}\nspec:\n  clusterIP: {address}\n  ports:\n{ports}\
         ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {name}-4\n  namespace: default\n  \
         labels: {{kubernetes.io/service-name: {name}}}\naddressType: IPv4\nendpoints:\n  - {{addresses: [\"{}\"], conditions: {{ready: true}}}}\n\
         ports:\n{targets}",
        mesh.backends[backend].v4()
    )
}

/// Checks who answered, and what it heard: version of HTTP, what was agreed to, and the server's name.
#[track_caller]
fn heard(answer: &Answer, backend: &str, by: &str, alpn: &str) {
    answer.expect(200, backend);
    let told = answer.told();
    let told = ["by", "alpn", "for"].map(|it| told[it].as_str().unwrap_or_default().to_owned());
    assert_eq!(told, [by, alpn, NAME], "{answer:?}");
}

#[test]
fn the_version_above_tls_is_what_the_port_says_or_else_the_clients() {
    let Some(scene) = Scene::new() else { return };
    scene.apply("");
    let (one, two) = (("HTTP/1.1", "http/1.1"), ("HTTP/2.0", "h2"));
    for (port, version, (by, alpn)) in [
        (HTTP, "--http1.1", one),
        (HTTP, HTTP2, one),
        (H2C, "--http1.1", two),
        (H2C, HTTP2, two),
        (UNSAID, "--http1.1", one),
        (UNSAID, HTTP2, two),
    ] {
        heard(&scene.ask(MODERN, port, version), "modern", by, alpn);
    }
    for (port, version) in [(HTTP, "--http1.1"), (HTTP, HTTP2), (UNSAID, "--http1.1")] {
        heard(&scene.ask(OLD, port, version), "old", one.0, one.1);
    }
    // HTTP/2 is not spoken to who does not agree to it, and nothing is sent in plain text instead.
    for (port, version) in [(H2C, "--http1.1"), (H2C, HTTP2), (UNSAID, HTTP2)] {
        let answer = scene.ask(OLD, port, version);
        assert_eq!(answer.status, 503, "{port} {version}: {answer:?}");
        let logged = scene.mesh.logged(&path(OLD, port, version));
        let last = logged.last().unwrap();
        assert!(last["flags"].to_string().contains("TLS"), "{last}");
    }
}

#[test]
fn many_requests_of_http2_go_above_tls() {
    let Some(scene) = Scene::new() else { return };
    // With a route, too.
    let to = "backendRefs: [{name: modern, port: 81}]\n      timeouts: {request: 20s}";
    scene.apply(&Route::new("HTTPRoute", "h2", "old").port(H2C).rule(to));
    for service in [MODERN, OLD] {
        let url = format!("http://{}:{H2C}/many", service.1);
        let mut load = scene.mesh.client.command("h2load");
        let output = load.args(["-n", "2000", "-c", "4", "-m", "25", &url]);
        let output = output.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        // nginx ends each connection after a hundred requests, and looks at none of those that follow.
        if !text.contains("2000 succeeded, 0 failed, 0 errored") {
            let failed = scene.mesh.logged("/many");
            let failed = failed.iter().find(|it| it["status"] != 200);
            panic!("{text}\n{failed:#?}");
        }
    }
}

#[test]
fn who_speaks_tls_is_passed_on_by_name_and_not_wrapped_again() {
    let Some(scene) = Scene::new() else { return };
    let route = Route::new("TLSRoute", "own", "modern").port(HTTPS);
    let route = route.line(&format!("hostnames: [{NAME}]"));
    let route = route.rule("backendRefs: [{name: modern, port: 443}]");
    scene.apply(&route);
    // It verifies the very certificate of the backend, and agrees with it on the version.
    for (version, by, alpn) in [
        ("--http1.1", "HTTP/1.1", "http/1.1"),
        ("--http2", "HTTP/2.0", "h2"),
    ] {
        for port in [HTTPS, UNSAID] {
            let answer = scene.ask_by_tls(NAME, MODERN.1, port, version);
            heard(&answer, "modern", by, alpn);
        }
        // The same endpoint by another port, for who leaves TLS to the agent.
        let plain = scene.ask(MODERN, HTTP, version);
        heard(&plain, "modern", "HTTP/1.1", "http/1.1");
    }
    for name in ["b.example", "x.a.example"] {
        let answer = scene.ask_by_tls(name, MODERN.1, HTTPS, "--http1.1");
        assert!([35, 56].contains(&answer.exit), "{answer:?}");
    }
    // By the same port, too: its route sees no names there.
    for (version, by, alpn) in [
        ("--http1.1", "HTTP/1.1", "http/1.1"),
        (HTTP2, "HTTP/2.0", "h2"),
    ] {
        heard(&scene.ask(MODERN, HTTPS, version), "modern", by, alpn);
    }
    let log = scene.mesh.node.files().join("nginx-modern/log");
    let log = fs::read_to_string(log).unwrap();
    assert!(!log.contains(" 400 "), "{log}");
}
