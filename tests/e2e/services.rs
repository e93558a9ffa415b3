//! Real clients of a service that real manifests describe: they reach its backends, and see the service's address alone.

mod go;

use std::fs;
use std::time::Duration;

use harness::machine::has_program;
use harness::manifest::Acceleration;
use harness::wait::PATIENCE;
use harness::{Running, wait_for};

use crate::world::World;

const VIP: &str = "10.96.0.10";
const VIP6: &str = "fd96::10";

/// For a program that takes a while to start.
const LONG: Duration = Duration::from_secs(30);

/// Answers each query with one address (RFC 1035, section 4.1): header, the question again, and a pointer to its name.
const NAME_SERVER: &str = r"
import socket, sys
s = socket.socket(socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
s.bind((sys.argv[1], 5353))
print('ready', flush=True)
while True:
    q, who = s.recvfrom(4096)
    end = q.index(b'\0', 12) + 5
    answer = b'\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04' + bytes([192, 0, 2, 7])
    s.sendto(q[:2] + b'\x85\x80\0\x01\0\x01\0\0\0\0' + q[12:end] + answer, who)
";

/// Connects, prints whom it is connected to, and what came.
const NODE_CLIENT: &str = r"
const s = require('net').connect(80, process.argv[2], () => {
  console.log('peer ' + s.remoteAddress + ' ' + s.remotePort);
  s.write('GET /hello HTTP/1.0\r\n\r\n');
});
s.on('data', d => console.log(d.toString()));
";

/// A world whose server's pod has a web server and a name server behind a service, once the service answers.
fn world(programs: &[&str]) -> Option<(World, Vec<Running>)> {
    for program in programs.iter().chain(&["python3", "curl"]) {
        if !has_program(program) {
            assert!(std::env::var_os("CI").is_none(), "this needs `{program}`");
            eprintln!(
                "\n!!! SKIPPED: this needs `{program}`; `cargo xtask setup` installs it !!!\n"
            );
            return None;
        }
    }
    let world = World::new(Some(Acceleration::Auto))?;
    let site = world.node.files().join("site");
    fs::create_dir_all(&site).unwrap();
    fs::write(site.join("hello"), "hello from the backend\n").unwrap();
    let script = world.node.files().join("name_server.py");
    fs::write(&script, NAME_SERVER).unwrap();
    let [v4, v6] = world.pods[1].addresses();
    let mut servers = Vec::new();
    for address in [v4, v6] {
        let (site, script) = (site.display(), script.display());
        let web = format!("exec python3 -m http.server -p HTTP/1.1 -d {site} -b {address} 8080");
        let names = format!("exec python3 {script} {address}");
        servers.push(shell(&world, 1, "web", &web));
        let mut names = shell(&world, 1, &format!("names-{address}"), &names);
        // Else its queries are refused at once, and `dig` has used up its tries.
        names.line("ready", PATIENCE).unwrap();
        servers.push(names);
    }
    let slice = |family: &str, address: &str| {
        format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: shop-{}\n  \
             namespace: default\n  labels:\n    kubernetes.io/service-name: shop\naddressType: {family}\n\
             endpoints:\n  - addresses: [\"{address}\"]\n    conditions:\n      ready: true\nports:\n  \
             - {{name: web, port: 8080, protocol: TCP}}\n  - {{name: dns, port: 5353, protocol: UDP}}\n",
            family.to_lowercase()
        )
    };
    let service = format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: shop\n  namespace: default\nspec:\n  clusterIP: {VIP}\n  \
         clusterIPs: [\"{VIP}\", \"{VIP6}\"]\n  ipFamilies: [IPv4, IPv6]\n  ports:\n    \
         - {{name: web, port: 80, targetPort: 8080, protocol: TCP}}\n    \
         - {{name: dns, port: 53, targetPort: 5353, protocol: UDP}}\n"
    );
    let text = service + &slice("IPv4", &v4.to_string()) + &slice("IPv6", &v6.to_string());
    let draft = world.node.files().join("shop.draft");
    fs::write(&draft, text).unwrap();
    fs::rename(&draft, world.node.manifests().join("shop.yaml")).unwrap();
    for vip in [VIP.to_owned(), format!("[{VIP6}]")] {
        let line = format!("curl -sf -m 2 -g http://{vip}/hello");
        wait_for("the service to answer", PATIENCE * 2, || {
            shell(&world, 0, "curl", &line).success(PATIENCE).is_ok()
        })
        .unwrap();
    }
    Some((world, servers))
}

fn shell(world: &World, pod: usize, name: &str, line: &str) -> Running {
    let pod = &world.pods[pod];
    let mut command = pod.command("sh");
    pod.start(name, command.args(["-c", line])).unwrap()
}

/// Runs a line in the client's pod; returns what it wrote.
fn client(world: &World, name: &str, line: &str) -> String {
    shell(world, 0, name, line).success(LONG).unwrap()
}

#[test]
fn curl_and_netcat_reach_a_service() {
    let Some((world, _servers)) = world(&["nc"]) else {
        return;
    };
    for (vip, url) in [(VIP, VIP.to_owned()), (VIP6, format!("[{VIP6}]"))] {
        let line = format!("curl -sf -g -w 'peer %{{remote_ip}}\\n' http://{url}/hello");
        let wrote = client(&world, "curl-peer", &line);
        assert!(wrote.contains("hello from the backend"), "{wrote}");
        assert!(wrote.contains(&format!("peer {vip}")), "{wrote}");
        let line = format!("printf 'GET /hello HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {vip} 80");
        let wrote = client(&world, "nc", &line);
        assert!(wrote.contains("hello from the backend"), "{wrote}");
    }
}

#[test]
fn dig_takes_the_answer_of_a_service_for_the_servers() {
    let Some((world, _servers)) = world(&["dig"]) else {
        return;
    };
    for vip in [VIP, VIP6] {
        let line = format!("dig @{vip} shop.example. A +tries=5 +time=2");
        let wrote = client(&world, "dig", &line);
        assert!(wrote.contains("192.0.2.7"), "{wrote}");
        // It says so where an answer comes from elsewhere.
        assert!(wrote.contains(&format!("SERVER: {vip}#53")), "{wrote}");
        assert!(!wrote.contains("unexpected source"), "{wrote}");
    }
}

#[test]
fn node_js_sees_the_service_as_its_peer() {
    let Some((world, _servers)) = world(&["node"]) else {
        return;
    };
    let script = world.node.files().join("client.js");
    fs::write(&script, NODE_CLIENT).unwrap();
    for vip in [VIP, VIP6] {
        let wrote = client(&world, "node", &format!("node {} {vip}", script.display()));
        assert!(wrote.contains(&format!("peer {vip} 80")), "{wrote}");
        assert!(wrote.contains("hello from the backend"), "{wrote}");
    }
}
