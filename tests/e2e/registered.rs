//! Services that programs register, as a workload dials them: balanced among instances that give signs of life.

use std::fs;
use std::net::IpAddr;

use harness::manifest::{self, Acceleration};
use harness::remote::Socket;
use harness::remote::protocol::{Call, Kind, Piece};
use harness::wait::{PATIENCE, wait_for_some};
use harness::{Pod, Remote, Running, wait_for};

use crate::world::{MIXED, World, exchange};

/// A name server that there is nowhere: queries to it are captured.
const RESOLV_CONF: &str = "search shop.svc.cluster.local\nnameserver 192.0.2.53\n";
const RAW: u16 = 8081;

/// Starts a web server that says which pod it is in.
fn web(world: &World, pod: &Pod) -> Running {
    let site = world.node.files().join(format!("site-{}", pod.name()));
    fs::create_dir_all(&site).unwrap();
    fs::write(site.join("who"), format!("{}\n", pod.name())).unwrap();
    let mut python = pod.command("python3");
    python.args(["-m", "http.server", "8080", "--directory"]);
    python.arg(site).arg("--bind").arg(pod.v4().to_string());
    pod.start("web", &mut python).unwrap()
}

/// Asks a URL's host who it is, from the client's pod.
fn who(world: &World, host: &str) -> String {
    let conf = world.node.files().join("resolv.conf");
    fs::write(&conf, RESOLV_CONF).unwrap();
    let line = format!(
        "mount --bind {} /etc/resolv.conf && exec curl -sf -m 5 http://{host}/who",
        conf.display()
    );
    let mut command = world.pods[0].command("unshare");
    let output = command.args(["--mount", "sh", "-c", &line]).output();
    let told = String::from_utf8(output.unwrap().stdout).unwrap();
    told.trim().to_owned()
}

/// Returns what the first of some header lines leads a request to.
fn asked(world: &World, host: &str, header: &str) -> String {
    let url = format!("http://{host}/who");
    let mut curl = world.pods[0].command("curl");
    let output = curl.args(["-s", "-m", "5", "-H", header, &url]).output();
    let told = String::from_utf8(output.unwrap().stdout).unwrap();
    told.trim().to_owned()
}

/// Connects until the connection is one to this listener; returns both ends. None is left waiting to be accepted.
fn join(world: &World, vip: &str, listeners: &[Socket; 2], wanted: usize) -> (Socket, Socket) {
    let vip: IpAddr = vip.parse().unwrap();
    let has_one = |listener: &Socket| {
        let poll = Call::Poll {
            events: libc::POLLIN,
            timeout: 10,
        };
        listener.call(poll).unwrap().count != 0
    };
    for _ in 0..200 {
        let client = world.client.connect((vip, 81).into()).unwrap();
        let came = || listeners.iter().position(has_one);
        let at = wait_for_some("the connection", PATIENCE, came).unwrap();
        let server = listeners[at].accept().unwrap();
        if at == wanted {
            for end in [&client, &server] {
                end.call(Call::Nonblocking(true)).unwrap();
            }
            return (client, server);
        }
        client.close().unwrap();
        server.close().unwrap();
    }
    panic!("no connection came to {}", listeners[wanted].local);
}

#[test]
fn registered_instances_are_balanced_expire_and_drain() {
    let Some(world) = World::new(Some(Acceleration::Off)) else {
        return;
    };
    let pod = world.node.pod("other").unwrap();
    manifest::write(&pod, Acceleration::Off).unwrap();
    let other = Remote::start(&pod).unwrap();
    let _webs = [web(&world, &world.pods[1]), web(&world, &pod)];
    let listen =
        |remote: &Remote, pod: &Pod| remote.listen_on((pod.v4(), RAW).into(), Kind::Tcp).unwrap();
    let listeners = [listen(&world.server, &world.pods[1]), listen(&other, &pod)];
    let agent = world.agent();
    let register = |id: &str, pod: &Pod, more: &[&str]| {
        let address = pod.v4().to_string();
        let words = ["register", "shop/web", "--id", id, "--address", &address];
        let ports = ["--port", "http=80:8080", "--port", "raw=81:8081"];
        agent.question(&[&words[..], &ports, more].concat())
    };
    let told = register("a", &world.pods[1], &["--ttl", "1h", "--output", "json"]).output();
    let told: serde_json::Value = serde_json::from_slice(&told.unwrap().stdout).unwrap();
    let vip = told["addresses"][0].as_str().unwrap();
    let mut keeper = register("b", &pod, &["--ttl", "2s", "--keep"]);
    let mut keeper = world.node.start("keeper", &mut keeper).unwrap();
    for host in [vip, "web.shop.svc.cluster.local", "web"] {
        for name in ["server", "other"] {
            wait_for(&format!("{name} at {host}"), PATIENCE, || {
                who(&world, host) == name
            })
            .unwrap();
        }
    }
    let pieces = (Piece::first(1, 1000), Piece::first(2, 1000));
    let held = join(&world, vip, &listeners, 1);
    exchange((&held.0, &held.1), pieces, MIXED);
    // It gives no more signs of life, and is dialled no more.
    keeper.kill().unwrap();
    let only = |name: &str| {
        // While both are there, one is drawn so often in a row once in a thousand million times.
        let all = || (0..30).all(|_| who(&world, vip) == name);
        wait_for(&format!("{name} alone"), PATIENCE, all).unwrap();
        assert!((0..10).all(|_| who(&world, "web") == name));
    };
    only("server");
    let next = (pieces.0.then(1000), pieces.1.then(1000));
    exchange((&held.0, &held.1), next, MIXED);
    // One that is deregistered is drained as well.
    let held = join(&world, vip, &listeners, 0);
    exchange((&held.0, &held.1), pieces, MIXED);
    let back = register("b", &pod, &["--ttl", "1h"]).output().unwrap();
    assert!(back.status.success(), "{back:?}");
    agent.ask(&["deregister", "shop/web", "--id", "a"]).unwrap();
    only("other");
    exchange((&held.0, &held.1), next, MIXED);
}

#[test]
fn routes_hold_for_registered_services() {
    let Some(world) = World::new(Some(Acceleration::Off)) else {
        return;
    };
    let _web = web(&world, &world.pods[1]);
    let other = world.node.pod("other").unwrap();
    manifest::write(&other, Acceleration::Off).unwrap();
    let _other = web(&world, &other);
    for pod in [&world.pods[1], &other] {
        wait_for("a server that listens", PATIENCE, || {
            asked(&world, &format!("{}:8080", pod.v4()), "x-to: pod") == pod.name()
        })
        .unwrap();
    }
    // Written before there is any of the services.
    let route = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: by-header, namespace: shop}
spec:
  parentRefs: [{group: '', kind: Service, name: web}]
  rules:
  - matches: [{headers: [{name: x-to, value: other}]}]
    backendRefs: [{name: other, port: 80}]
  - backendRefs: [{name: web, port: 80}]
";
    fs::write(world.node.manifests().join("route.yaml"), route).unwrap();
    let agent = world.agent();
    let register = |service: &str, pod: &Pod| {
        let address = pod.v4().to_string();
        let words = ["register", service, "--id", "a", "--address", &address];
        let more = ["--port", "http=80:8080", "--ttl", "1h", "--output", "json"];
        let told = agent.question(&[words, more].concat()).output().unwrap();
        let told: serde_json::Value = serde_json::from_slice(&told.stdout).unwrap();
        told["addresses"][0].as_str().unwrap().to_owned()
    };
    let vip = register("shop/web", &world.pods[1]);
    register("shop/other", &other);
    wait_for("the route to lead to the other service", PATIENCE, || {
        asked(&world, &vip, "x-to: other") == "other"
    })
    .unwrap();
    assert_eq!(asked(&world, &vip, "x-to: nobody"), "server");
    let told = agent.ask(&["routes"]).unwrap();
    assert!(
        told.contains("by-header") && told.contains("accepted"),
        "{told}"
    );
    // A backend that is deregistered is an error, and no other's requests.
    agent
        .ask(&["deregister", "shop/other", "--id", "a"])
        .unwrap();
    wait_for("the backend to be gone", PATIENCE, || {
        asked(&world, &vip, "x-to: other").is_empty()
    })
    .unwrap();
    assert_eq!(asked(&world, &vip, "x-to: nobody"), "server");
}
