//! Names: a real resolver asks the agent, on the host and inside of workloads.

mod manifests;
mod upstream;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use harness::manifest::{self, Acceleration};
use harness::wait::PATIENCE;
use harness::{Agent, Node, Pod, Running};
use serde_json::Value;

/// Where others than workloads ask the agent: the node's bridge.
const HOST: &str = "10.77.0.1";
/// Where the upstream name server listens, in the node's namespace.
const UPSTREAM: &str = "127.0.0.2";
/// Has the name server beside the agent say that there is nothing under the domain.
const LOCAL: &str = "--local=/cluster.local/";
/// Where the agent listens in workloads.
const PORT: &str = "15053";

/// A node with a pod, a name server beside the agent, and two registered services.
struct World {
    agent: Agent,
    upstream: Running,
    pod: Pod,
    node: Node,
}

impl World {
    /// `upstream`: further arguments for the name server beside the agent.
    fn new(upstream: &[&str], agent: &[&str]) -> Option<Self> {
        if !harness::require_root() {
            return None;
        }
        let node = Node::new().unwrap();
        let pod = node.pod("client").unwrap();
        manifest::write(&pod, Acceleration::Off).unwrap();
        let mut dnsmasq = node.command(Path::new("dnsmasq")).unwrap();
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
        dnsmasq.args(["--port=53", "--log-facility=-", "--log-queries"]);
        dnsmasq.arg(format!("--listen-address={UPSTREAM}"));
        dnsmasq.args(upstream);
        let upstream = node.start("dnsmasq", &mut dnsmasq).unwrap();
        let all = ["--dns-address", HOST, "--dns-upstream", UPSTREAM];
        let agent = Agent::start(&node, &[&all, agent].concat()).unwrap();
        Some(Self {
            agent,
            upstream,
            pod,
            node,
        })
    }

    /// Registers `shop/cart` with an instance of each family, and returns its addresses.
    fn register(&self) -> [String; 2] {
        let mut addresses = Vec::new();
        for (id, address) in [("a", "10.77.0.9"), ("b", "fd77::9")] {
            let told = self.agent.ask(&[
                "register",
                "shop/cart",
                "--id",
                id,
                "--address",
                address,
                "--port",
                "http=8080",
                "--ttl",
                "1h",
                "--output",
                "json",
            ]);
            let answer: Value = serde_json::from_str(&told.unwrap()).unwrap();
            let all = answer["addresses"].as_array().unwrap();
            addresses = all.iter().map(|a| a.as_str().unwrap().to_owned()).collect();
        }
        let listens = || {
            self.inside(&[
                "+short",
                "+tries=1",
                "+time=1",
                "dns-version.cluster.local",
                "TXT",
            ])
            .contains("1.1.0")
        };
        harness::wait_for("the name server in the pod", PATIENCE, listens).unwrap();
        addresses.try_into().unwrap()
    }

    /// Asks on the host.
    fn outside(&self, words: &[&str]) -> String {
        let mut dig = self.node.command(Path::new("dig")).unwrap();
        dig.arg(format!("@{HOST}"));
        answer(&mut dig, words)
    }

    /// Asks inside of the pod.
    fn inside(&self, words: &[&str]) -> String {
        let mut dig = self.pod.command("dig");
        dig.args(["@127.0.0.1", "-p", PORT]);
        answer(&mut dig, words)
    }

    fn count(&self, outcome: &str) -> u64 {
        let page = self.agent.metrics().unwrap();
        let line = format!("mesh_dns_queries_total{{outcome=\"{outcome}\"}} ");
        let found = page.lines().find_map(|l| l.strip_prefix(&line));
        found.unwrap().parse().unwrap()
    }
}

/// Returns what `dig` prints, without regard to how it ends: no answer is code 9.
fn answer(dig: &mut Command, words: &[&str]) -> String {
    let output = dig.arg("+nocookie").args(words).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// Returns the lines of a short answer, sorted.
fn lines(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines
}

#[test]
fn a_service_has_every_record_inside_and_outside() {
    let Some(world) = World::new(&[LOCAL], &[]) else {
        return;
    };
    let [v4, v6] = world.register();
    let cart = "cart.shop.svc.cluster.local";
    type Ask<'a> = &'a dyn Fn(&[&str]) -> String;
    let six = |words: &[&str]| {
        let mut dig = world.pod.command("dig");
        dig.args(["@::1", "-p", PORT]);
        answer(&mut dig, words)
    };
    let asks: [Ask<'_>; 3] = [
        &|words| world.outside(words),
        &|words| world.inside(words),
        &six,
    ];
    for ask in asks {
        for more in ["+notcp", "+tcp"] {
            let short = |name: &str, kind: &str| ask(&["+short", more, name, kind]);
            assert_eq!(lines(&short(cart, "A")), [&v4]);
            assert_eq!(lines(&short(cart, "AAAA")), [&v6]);
            assert_eq!(lines(&short("CaRt.Shop.SVC.cluster.local", "A")), [&v4]);
            let srv = short("_http._tcp.cart.shop.svc.cluster.local", "SRV");
            assert_eq!(lines(&srv), ["0 100 8080 cart.shop.svc.cluster.local."]);
            for address in [&v4, &v6] {
                let name = ask(&["+short", more, "-x", address]);
                assert_eq!(lines(&name), [format!("{cart}.")]);
            }
            let soa = short("cluster.local", "SOA");
            assert!(soa.contains("hostmaster.cluster.local."), "{soa}");
            assert_eq!(short("cluster.local", "NS"), "ns.dns.cluster.local.\n");
            // That there is nothing: of a name, of a type, and with what names it.
            for (name, kind, code) in [
                ("no.shop.svc.cluster.local", "A", "NXDOMAIN"),
                (cart, "MX", "NOERROR"),
                ("shop.svc.cluster.local", "A", "NOERROR"),
                ("example.org.shop.svc.cluster.local", "A", "NXDOMAIN"),
            ] {
                let all = ask(&[more, name, kind]);
                assert!(all.contains(&format!("status: {code}")), "{name}: {all}");
                assert!(all.contains("ANSWER: 0, AUTHORITY: 1"), "{name}: {all}");
                assert!(all.contains("flags: qr aa rd ra"), "{name}: {all}");
            }
            for kind in ["ANY", "AXFR", "IXFR=1"] {
                let all = ask(&[more, "+tries=1", "cluster.local", kind]);
                // `dig` shows no status for transfers, only that nothing came.
                let came = all
                    .lines()
                    .any(|line| !line.is_empty() && !line.starts_with(';'));
                let refused = !came && (kind != "ANY" || all.contains("REFUSED"));
                assert!(refused, "{kind}: {all}");
            }
        }
        let plain = ask(&["+noedns", cart, "A"]);
        assert!(!plain.contains("OPT PSEUDOSECTION"), "{plain}");
        let newer = ask(&["+edns=1", "+noednsnegotiation", cart, "A"]);
        assert!(newer.contains("BADVERS"), "{newer}");
    }
    assert!(world.count("answered") > 50 && world.count("refused") > 10);
    // The last instance goes, and the name with it.
    for id in ["a", "b"] {
        world
            .agent
            .ask(&["deregister", "shop/cart", "--id", id])
            .unwrap();
    }
    let gone = || world.outside(&[cart, "A"]).contains("NXDOMAIN");
    harness::wait_for("the name to go", PATIENCE, gone).unwrap();
}

#[test]
fn a_namespace_goes_with_its_pod_although_sockets_were_open_in_it() {
    let Some(world) = World::new(&[], &[]) else {
        return;
    };
    world.register();
    let pod = &world.pod;
    // A connection that is open in there, too.
    let held = pod
        .enter(|| TcpStream::connect(("127.0.0.1", 15053)).unwrap())
        .unwrap();
    let link = || {
        let mut ip = world.node.command(Path::new("ip")).unwrap();
        ip.args(["link", "show", "v2"])
            .output()
            .unwrap()
            .status
            .success()
    };
    assert!(link());
    drop(held);
    let output = Command::new("ip")
        .args(["netns", "del", pod.netns()])
        .output();
    assert!(output.unwrap().status.success());
    // The other end of its link goes only when the namespace itself does.
    harness::wait_for("the namespace to go", Duration::from_secs(5), || !link()).unwrap();
    let state = || world.agent.workload("client").unwrap()["state"] == "not-found";
    harness::wait_for("the agent to notice", PATIENCE, state).unwrap();
}

/// Returns the flags of the node's only workload, as they are in the kernel's map.
fn flags(world: &World) -> Option<u64> {
    let map = {
        let version = format!("v{}", mesh_common::ABI_VERSION);
        world.agent.bpf_dir().join(version).join("maps/WORKLOADS")
    };
    let mut bpftool = Command::new("bpftool");
    bpftool.args(["--json", "map", "dump", "pinned"]).arg(&map);
    let output = bpftool.output().unwrap();
    let entries: Value = serde_json::from_slice(&output.stdout).unwrap();
    let value = entries[0]["value"].as_array()?;
    // After the handle's four bytes.
    let byte = value.get(4)?.as_str()?.trim_start_matches("0x").to_owned();
    u64::from_str_radix(&byte, 16).ok()
}

#[test]
fn queries_are_captured_while_there_is_a_service() {
    let Some(world) = World::new(&[], &[]) else {
        return;
    };
    let dns = u64::from(mesh_common::workload::WORKLOAD_DNS);
    let captured = || flags(&world).map(|flags| flags & dns != 0);
    assert_eq!(captured(), Some(false));
    world.register();
    harness::wait_for("the flag", PATIENCE, || captured() == Some(true)).unwrap();
    for id in ["a", "b"] {
        let words = ["deregister", "shop/cart", "--id", id];
        world.agent.ask(&words).unwrap();
    }
    harness::wait_for("the flag to go", PATIENCE, || captured() == Some(false)).unwrap();
    let refused = || {
        world
            .pod
            .enter(|| TcpStream::connect(("127.0.0.1", 15053)).is_err())
    };
    harness::wait_for("the listener to go", PATIENCE, || refused().unwrap()).unwrap();
}

#[test]
fn floods_and_garbage_do_no_harm() {
    let Some(world) = World::new(&[], &[]) else {
        return;
    };
    let [v4, _] = world.register();
    let cart = ["+short", "cart.shop.svc.cluster.local", "A"];
    let to: SocketAddr = "127.0.0.1:15053".parse().unwrap();
    // 100,000 datagrams of all kinds, as fast as they go.
    let flood = world.pod.enter(|| {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let mut number = 1u32;
        let mut bytes = vec![0u8; 5000];
        for _ in 0..100_000 {
            number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            for (byte, seed) in bytes.iter_mut().zip(number.to_be_bytes().iter().cycle()) {
                *byte = *seed;
            }
            let length = usize::try_from(number >> 8).unwrap() % bytes.len();
            // A full queue is what a flood is about.
            socket.send_to(&bytes[..length], to).ok();
        }
    });
    flood.unwrap();
    let answered = || world.inside(&cart).trim() == v4;
    harness::wait_for("an answer after the flood", PATIENCE, answered).unwrap();
    assert!(world.count("dropped") > 0);
    // Connections: too long a query, a query that never ends, and more connections than anybody needs.
    let told = world.pod.enter(|| {
        let connect = || {
            let stream = TcpStream::connect(to).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream
        };
        let ends = |mut stream: TcpStream| {
            let mut rest = Vec::new();
            // Closed with a reset where something lay unread.
            stream.read_to_end(&mut rest).is_ok_and(|_| rest.is_empty()) || rest.is_empty()
        };
        let mut long = connect();
        long.write_all(&[0xff, 0xff]).unwrap();
        let long = ends(long);
        let mut slow = connect();
        slow.write_all(&[0, 40, 1]).unwrap();
        let slow = ends(slow);
        let many: Vec<TcpStream> = (0..40).map(|_| connect()).collect();
        let last = many.into_iter().next_back().map(ends);
        (long, slow, last)
    });
    assert_eq!(told.unwrap(), (true, true, Some(true)));
    harness::wait_for("an answer by TCP", PATIENCE, || {
        world.inside(&["+tcp", cart[0], cart[1], cart[2]]).trim() == v4
    })
    .unwrap();
    assert!(world.agent.status().is_ok());
}
