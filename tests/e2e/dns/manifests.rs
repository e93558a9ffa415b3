//! Services that manifests describe, as a workload finds them that knows nothing but a name server outside the mesh.

use std::fs;
use std::path::Path;

use harness::wait::PATIENCE;
use harness::wait_for;

use super::{LOCAL, World, answer, lines};

/// A name server that there is nowhere: who is answered by it is answered by the agent.
const NOWHERE: &str = "192.0.2.53";

/// A service of each kind. `db` is headless; one of its endpoints is not ready.
const SHOP: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  clusterIP: 10.96.0.20
  clusterIPs: ["10.96.0.20", "fd96::20"]
  ipFamilies: [IPv4, IPv6]
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec:
  clusterIP: None
  ports: [{name: sql, port: 5432}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: db-4, namespace: shop, labels: {kubernetes.io/service-name: db}}
addressType: IPv4
endpoints:
  - {addresses: ["10.77.1.1"], targetRef: {kind: Pod, name: db-0}, conditions: {ready: true}}
  - {addresses: ["10.77.1.2"], conditions: {ready: true}}
  - {addresses: ["10.77.1.4"], hostname: main, targetRef: {kind: Pod, name: db-3}, conditions: {ready: true}}
  - {addresses: ["10.77.1.3"], targetRef: {kind: Pod, name: db-2}, conditions: {ready: false}}
ports: [{name: sql, port: 5432, protocol: TCP}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: db-6, namespace: shop, labels: {kubernetes.io/service-name: db}}
addressType: IPv6
endpoints:
  - {addresses: ["fd77::1:1"], targetRef: {kind: Pod, name: db-0}, conditions: {ready: true}}
ports: [{name: sql, port: 5432, protocol: TCP}]
---
apiVersion: v1
kind: Service
metadata: {name: far, namespace: shop}
spec: {type: ExternalName, externalName: db.example.org}
"#;

/// A name server of the mesh's own, at port 5353 of the only endpoint.
const NAMES: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: names, namespace: shop}
spec:
  clusterIP: 10.96.0.53
  ports:
    - {name: udp, port: 53, targetPort: 5353, protocol: UDP}
    - {name: tcp, port: 53, targetPort: 5353, protocol: TCP}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: names, namespace: shop, labels: {kubernetes.io/service-name: names}}
addressType: IPv4
endpoints:
  - {addresses: ["ADDRESS"], conditions: {ready: true}}
ports:
  - {name: udp, port: 5353, protocol: UDP}
  - {name: tcp, port: 5353, protocol: TCP}
"#;

/// Writes a manifest at one stroke.
fn write(world: &World, name: &str, text: &str) {
    let draft = world.node.files().join(format!("{name}.draft"));
    fs::write(&draft, text).unwrap();
    fs::rename(&draft, world.node.manifests().join(format!("{name}.yaml"))).unwrap();
}

/// Asks a name server as a program in the pod does.
fn dig(world: &World, server: &str, words: &[&str]) -> String {
    let mut dig = world.pod.command("dig");
    dig.arg(format!("@{server}"));
    dig.args(["+tries=1", "+time=2"]);
    answer(&mut dig, words)
}

#[test]
fn services_of_manifests_have_their_names_in_a_workload() {
    let far = "--address=/db.example.org/192.0.2.7";
    let Some(world) = World::new(&[LOCAL, far], &[]) else {
        return;
    };
    write(&world, "shop", SHOP);
    let ask = |name: &str, kind: &str| {
        let words = ["+short", name, kind];
        let udp = dig(&world, NOWHERE, &words);
        let tcp = dig(&world, NOWHERE, &["+tcp", words[0], words[1], words[2]]);
        assert_eq!(lines(&udp), lines(&tcp), "{name}");
        let mut all: Vec<String> = udp.lines().map(str::to_owned).collect();
        all.sort();
        all
    };
    let web = "web.shop.svc.cluster.local";
    wait_for("the names", PATIENCE, || {
        dig(&world, NOWHERE, &["+short", web, "A"]).trim() == "10.96.0.20"
    })
    .unwrap();
    assert_eq!(ask(web, "A"), ["10.96.0.20"]);
    assert_eq!(ask(web, "AAAA"), ["fd96::20"]);
    let db = "db.shop.svc.cluster.local";
    // The endpoint that is not ready has no name.
    assert_eq!(ask(db, "A"), ["10.77.1.1", "10.77.1.2", "10.77.1.4"]);
    assert_eq!(ask(db, "AAAA"), ["fd77::1:1"]);
    assert_eq!(ask(&format!("db-0.{db}"), "A"), ["10.77.1.1"]);
    assert_eq!(ask(&format!("db-2.{db}"), "A"), [""; 0]);
    assert_eq!(ask(&format!("main.{db}"), "A"), ["10.77.1.4"]);
    assert_eq!(ask(&format!("db-3.{db}"), "A"), [""; 0]);
    // An endpoint has its hostname, else its pod's name, else its address'.
    assert_eq!(
        ask(&format!("_sql._tcp.{db}"), "SRV"),
        [
            format!("0 100 5432 10-77-1-2.{db}."),
            format!("0 100 5432 db-0.{db}."),
            format!("0 100 5432 db-0.{db}."),
            format!("0 100 5432 main.{db}."),
        ]
    );
    let far = ask("far.shop.svc.cluster.local", "A");
    assert_eq!(far, ["192.0.2.7", "db.example.org."]);
    for (address, name) in [
        ("10.96.0.20", format!("{web}.\n")),
        ("fd96::20", format!("{web}.\n")),
        ("10.77.1.1", format!("db-0.{db}.\n")),
        ("10.77.1.4", format!("main.{db}.\n")),
    ] {
        assert_eq!(dig(&world, NOWHERE, &["+short", "-x", address]), name);
    }
    // The C library, with the search list that Kubernetes writes.
    let found = resolve(&world, "getent ahosts web");
    assert!(
        found.contains("10.96.0.20") && found.contains("fd96::20"),
        "{found}"
    );
    let found = resolve(&world, "getent hosts far.shop");
    assert!(found.contains("192.0.2.7"), "{found}");
}

/// Runs a line in the pod with a resolv.conf of its own; returns what it wrote.
fn resolve(world: &World, line: &str) -> String {
    let conf = world.node.files().join("resolv.conf");
    let text = format!(
        "search shop.svc.cluster.local svc.cluster.local cluster.local\nnameserver {NOWHERE}\noptions ndots:5\n"
    );
    fs::write(&conf, text).unwrap();
    let script = format!("mount --bind {} /etc/resolv.conf && {line}", conf.display());
    let mut command = world.pod.command("unshare");
    let output = command.args(["--mount", "sh", "-c", &script]).output();
    String::from_utf8(output.unwrap().stdout).unwrap()
}

#[test]
fn a_name_server_of_the_mesh_is_asked_itself() {
    let Some(world) = World::new(&[LOCAL], &[]) else {
        return;
    };
    let pod = world.node.pod("names").unwrap();
    let mut dnsmasq = pod.command(Path::new("dnsmasq"));
    dnsmasq.args([
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--pid-file=",
    ]);
    dnsmasq.args([
        "--user=root",
        "--no-resolv",
        "--no-hosts",
        "--bind-interfaces",
    ]);
    dnsmasq.args(["--port=5353", "--log-facility=-", LOCAL]);
    dnsmasq.arg(format!("--listen-address={}", pod.v4()));
    dnsmasq.arg("--address=/there.example/192.0.2.99");
    let _server = pod.start("dnsmasq", &mut dnsmasq).unwrap();
    write(&world, "shop", SHOP);
    write(
        &world,
        "names",
        &NAMES.replace("ADDRESS", &pod.v4().to_string()),
    );
    let web = ["web.shop.svc.cluster.local", "A"];
    wait_for("the agent's names", PATIENCE, || {
        dig(&world, NOWHERE, &["+short", web[0], web[1]]).trim() == "10.96.0.20"
    })
    .unwrap();
    wait_for("the name server of the mesh", PATIENCE, || {
        let found = dig(&world, "10.96.0.53", &["+short", "there.example", "A"]);
        found.trim() == "192.0.2.99"
    })
    .unwrap();
    let tcp = ["+tcp", "+short", "there.example", "A"];
    assert_eq!(dig(&world, "10.96.0.53", &tcp).trim(), "192.0.2.99");
    // It does not know the shop; the agent does, and is not asked.
    for more in ["+notcp", "+tcp"] {
        let told = dig(&world, "10.96.0.53", &[more, web[0], web[1]]);
        assert!(told.contains("status: NXDOMAIN"), "{told}");
        assert!(told.contains("SERVER: 10.96.0.53#53"), "{told}");
    }
    let found = dig(&world, NOWHERE, &["+short", web[0], web[1]]);
    assert_eq!(found.trim(), "10.96.0.20");
}
