//! The harness itself: pods reach each other, and nothing is left behind.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use harness::{Node, require_root, wait_for};

#[test]
fn pods_reach_each_other_over_both_families() {
    if !require_root() {
        return;
    }
    let node = Node::new().unwrap();
    let (client, server) = (node.pod("client").unwrap(), node.pod("server").unwrap());
    for address in server.addresses() {
        echo(&client, &server, address);
    }
    let (first, second) = node.pair("first", "second").unwrap();
    for address in second.addresses() {
        echo(&first, &second, address);
    }
}

fn echo(client: &harness::Pod, server: &harness::Pod, address: IpAddr) {
    let listener = server
        .enter(|| TcpListener::bind((address, 0)))
        .unwrap()
        .unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut there = client
        .enter(|| TcpStream::connect((address, port)))
        .unwrap()
        .unwrap();
    let (mut here, peer) = listener.accept().unwrap();
    assert!(client.addresses().contains(&peer.ip()));
    there.write_all(b"hello").unwrap();
    let mut bytes = [0; 5];
    here.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"hello");
}

#[test]
fn a_command_runs_in_the_pods_namespace_and_cgroup() {
    if !require_root() {
        return;
    }
    let node = Node::new().unwrap();
    let pod = node.pod("a").unwrap();
    let script = "cat /proc/self/cgroup; readlink /proc/self/ns/net; echo end $$";
    let mut running = pod
        .start("look", pod.command("sh").args(["-c", script]))
        .unwrap();
    let log = running.success(Duration::from_secs(10)).unwrap();
    let cgroup = pod.cgroup().file_name().unwrap().to_str().unwrap();
    assert!(
        log.lines()
            .any(|line| line.starts_with("0::") && line.ends_with(&format!("/{cgroup}"))),
        "{log}"
    );
    let own = std::fs::read_link("/proc/self/ns/net").unwrap();
    assert!(!log.contains(own.to_str().unwrap()), "{log}");
    assert!(log.contains(&format!("end {}", running.pid())), "{log}");
}

#[test]
fn nothing_is_left_of_a_node() {
    if !require_root() {
        return;
    }
    let node = Node::new().unwrap();
    let pod = node.pod("a").unwrap();
    // Leaves a grandchild behind that only the cgroup knows of.
    let script = "sleep 1000 & echo started";
    let mut shell = pod
        .start("fork", pod.command("sh").args(["-c", script]))
        .unwrap();
    shell.success(Duration::from_secs(10)).unwrap();
    let gone = [
        pod.cgroup().to_owned(),
        pod.netns_path(),
        node.cgroup().unwrap(),
        node.files().to_owned(),
    ];
    assert!(gone.iter().all(|path| path.exists()));
    drop((pod, node));
    for path in gone {
        assert!(!path.exists(), "{} is still there", path.display());
    }
}

#[test]
fn memory_of_a_pod_is_limited_and_counted() {
    if !require_root() {
        return;
    }
    let node = Node::new().unwrap();
    let pod = node.pod("a").unwrap();
    pod.limit_memory(64 << 20).unwrap();
    let eat = "x=$(head -c 20000000 /dev/zero | tr '\\0' x); echo eaten; read line < /dev/zero";
    let mut shell = pod
        .start("eat", pod.command("sh").args(["-c", eat]))
        .unwrap();
    shell.line("eaten", Duration::from_secs(10)).unwrap();
    let counted = wait_for("the memory to be charged", Duration::from_secs(5), || {
        pod.charged_memory().unwrap() > 20_000_000
    });
    counted.unwrap();
}

#[test]
fn an_interrupted_run_leaves_nothing() {
    if !require_root() {
        return;
    }
    let mut run = Command::new(env!("CARGO_BIN_EXE_peer"))
        .arg("stand")
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut id = String::new();
    let mut lines = std::io::BufReader::new(run.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut lines, &mut id).unwrap();
    let netns = format!("/run/netns/{}", id.trim());
    assert!(std::path::Path::new(&netns).exists(), "{netns}");
    let pid = rustix::process::Pid::from_child(&run);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert!(!run.wait().unwrap().success());
    assert!(!std::path::Path::new(&netns).exists(), "{netns}");
}
