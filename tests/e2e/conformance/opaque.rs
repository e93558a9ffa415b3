//! `TLSRoute`, `TCPRoute` and `UDPRoute`.

use std::collections::BTreeMap;

use super::mesh::{ECHO, ECHO6, Mesh, Route};
use super::secure::Certificates;

#[test]
fn tls_goes_by_the_servers_name_and_is_not_opened() {
    let Some(mesh) = Mesh::new() else { return };
    let certificates = Certificates::new(&mesh, &["a.example", "x.b.example"]);
    let _servers = [
        certificates.serve(&mesh, 0, "a.example"),
        certificates.serve(&mesh, 1, "x.b.example"),
    ];
    let route = |name, hostname: &str, to: &str| {
        let route = Route::new("TLSRoute", name, "echo").port(443);
        let route = route.line(&format!("hostnames: [\"{hostname}\"]"));
        route.rule(&format!("backendRefs: [{{name: {to}, port: 443}}]"))
    };
    mesh.routes(&(route("a", "a.example", "echo-v1") + &route("b", "*.b.example", "echo-v2")));
    let authority = certificates.0.join("ca.crt");
    let authority = authority.to_str().unwrap();
    let ask = |name: &str| {
        let resolve = format!("{name}:443:{ECHO}");
        let url = format!("https://{name}/who");
        mesh.curl(&[
            "--http1.1",
            "--cacert",
            authority,
            "--resolve",
            &resolve,
            &url,
        ])
    };
    for (name, backend) in [("a.example", "v1"), ("x.b.example", "v2")] {
        ask(name).expect(200, backend);
    }
    for name in ["b.example", "c.example"] {
        let answer = ask(name);
        assert!([35, 56].contains(&answer.exit), "{answer:?}");
    }
}

#[test]
fn requests_are_none_of_tls() {
    let Some(mesh) = Mesh::new() else { return };
    let certificates = Certificates::new(&mesh, &["a.example"]);
    let _server = certificates.serve(&mesh, 0, "a.example");
    let route = Route::new("TLSRoute", "all", "echo").line("hostnames: [a.example]");
    mesh.routes(&route.rule("backendRefs: [{name: echo-v1, port: 443}]"));
    asked_by_tls(&mesh, &certificates);
    // The ports of the service that say so stay with the kernel.
    for (port, carrier) in [
        (443, "agent"),
        (80, "kernel"),
        (81, "kernel"),
        (9090, "kernel"),
        (7070, "kernel"),
    ] {
        let to = format!("{ECHO}:{port}");
        assert_eq!(mesh.carrier(&to).0, carrier, "{to}");
    }
    let shown = mesh.agent.question(&["routes"]).output().unwrap();
    let text = String::from_utf8_lossy(&shown.stdout);
    assert!(text.contains("port 80, which speaks http"), "{text}");
}

#[test]
fn connections_by_weight_in_the_kernel() {
    let Some(mesh) = Mesh::new() else { return };
    let rule = "backendRefs: [{name: echo-v1, port: 9090, weight: 7}, {name: echo-v2, port: 9090, weight: 2}, \
                {name: absent, port: 9090, weight: 1}]";
    mesh.routes(&Route::new("TCPRoute", "raw", "echo").port(9090).rule(rule));
    assert_eq!(mesh.carrier(&format!("{ECHO}:9090")).0, "kernel");
    for address in [ECHO.to_owned(), format!("[{ECHO6}]")] {
        let url = format!("http://{address}:9090/");
        // The share of a backend that does not exist is refused.
        let parts = [("v1", 70), ("v2", 20), ("000", 10)];
        mesh.expect_spread(&url, &["-H", "connection: close"], &parts);
    }
    let answer = mesh.get(&format!("{ECHO}/"));
    assert!(
        ["v1", "v2"].contains(&answer.backend().as_str()),
        "{answer:?}"
    );
}

/// Sends a datagram from each of 500 sockets, and says who answers.
const DATAGRAMS: &str = "
import collections, socket, sys
seen = collections.Counter()
for _ in range(500):
    s = socket.socket(socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(0.3)
    try:
        s.connect((sys.argv[1], 9091))
        s.send(b'?')
        seen[s.recv(100).decode()] += 1
    except OSError:
        seen['none'] += 1
    s.close()
for name, count in seen.items(): print(name, count)
";

#[test]
fn datagrams_by_weight_in_the_kernel() {
    let Some(mesh) = Mesh::new() else { return };
    let rule = "backendRefs: [{name: echo-v1, port: 9091, weight: 7}, {name: echo-v2, port: 9091, weight: 2}, \
                {name: absent, port: 9091, weight: 1}]";
    mesh.routes(
        &Route::new("UDPRoute", "datagrams", "echo")
            .port(9091)
            .rule(rule),
    );
    for address in [ECHO, ECHO6] {
        let spread = || {
            let mut command = mesh.client.command("python3");
            let output = command.args(["-c", DATAGRAMS, address]).output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let pairs = text.lines().filter_map(|line| line.split_once(' '));
            let spread: BTreeMap<String, u32> = pairs
                .map(|(name, count)| (name.to_owned(), count.parse().unwrap()))
                .collect();
            assert_eq!(spread.values().sum::<u32>(), 500, "{output:?}");
            spread
        };
        let near = |seen: &BTreeMap<String, u32>| {
            let parts = [("v1", 350), ("v2", 100), ("none", 50)];
            parts.iter().all(|(name, part): &(&str, u32)| {
                seen.get(*name).is_some_and(|it| it.abs_diff(*part) <= 25)
            })
        };
        let all: Vec<_> = (0..5)
            .map(|_| spread())
            .take_while(|it| !near(it))
            .collect();
        assert!(all.len() < 5, "{all:?}");
    }
}

#[test]
fn of_kinds_for_one_port_the_one_that_sees_most_counts() {
    let Some(mesh) = Mesh::new() else { return };
    let to = |number: u32| format!("backendRefs: [{{name: echo-v{number}, port: 80}}]");
    let http = Route::new("HTTPRoute", "http", "echo")
        .port(80)
        .rule(&to(1));
    let tcp = Route::new("TCPRoute", "tcp", "echo").port(80).rule(&to(2));
    for (routes, backend) in [(http.clone() + &tcp, "v1"), (tcp, "v2")] {
        mesh.routes(&routes);
        for _ in 0..10 {
            mesh.get(&format!("{ECHO}/")).expect(200, backend);
        }
    }
    mesh.routes(&(http + &Route::new("TCPRoute", "tcp", "echo").port(80).rule(&to(2))));
    // It says so by its exit code, too.
    let shown = mesh.agent.question(&["routes"]).output().unwrap();
    let text = String::from_utf8_lossy(&shown.stdout);
    assert!(
        text.contains("Conflicted") && shown.status.code() == Some(1),
        "{text}"
    );
}

/// Asks the service by TLS, which is passed on, and expects the first server's answer.
pub(super) fn asked_by_tls(mesh: &Mesh, certificates: &Certificates) {
    let authority = certificates.0.join("ca.crt").display().to_string();
    let resolve = format!("a.example:443:{ECHO}");
    let url = "https://a.example/who";
    let words = [
        "--http1.1",
        "--cacert",
        &authority,
        "--resolve",
        &resolve,
        url,
    ];
    mesh.curl(&words).expect(200, "v1");
}
