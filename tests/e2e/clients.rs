//! Ordinary client and server programs, without the mesh and with it: what comes out is what went in.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use harness::Running;
use harness::bytes::Stream;
use harness::machine::require_programs;
use harness::manifest::Acceleration;
use harness::wait::PATIENCE;

use crate::world::World;

const LENGTH: usize = 3_000_000;
/// For a program that sends a few megabytes.
const LONG: Duration = Duration::from_secs(30);

/// Runs `test` without the mesh and with this mode.
fn in_both(mode: Acceleration, programs: &[&str], test: impl Fn(&World)) {
    for mode in [None, Some(mode)] {
        let Some(world) = World::new(mode) else {
            return;
        };
        if !require_programs(programs) {
            return;
        }
        test(&world);
    }
}

/// Runs a shell line in the client's (0) or the server's (1) pod.
fn shell(world: &World, pod: usize, name: &str, line: &str) -> Running {
    let pod = &world.pods[pod];
    let mut command = pod.command("sh");
    pod.start(name, command.args(["-c", line])).unwrap()
}

/// Writes `LENGTH` bytes of a stream to a file, and returns where.
fn file(world: &World, seed: u64) -> PathBuf {
    let mut bytes = vec![0; LENGTH];
    Stream(seed).fill(0, &mut bytes);
    let path = world.node.files().join(format!("stream-{seed}"));
    fs::write(&path, bytes).unwrap();
    path
}

fn assert_is_stream(path: &Path, seed: u64) {
    let bytes = fs::read(path).unwrap();
    assert_eq!(bytes.len(), LENGTH, "{}", path.display());
    assert_eq!(Stream(seed).first_wrong(0, &bytes), None);
}

fn listening(world: &World, port: u16) {
    harness::wait_for("the server to listen", PATIENCE, || {
        let line = format!("ss -Hltn sport = :{port} | grep -q .");
        shell(world, 1, "ss", &line).success(PATIENCE).is_ok()
    })
    .unwrap();
}

#[test]
fn netcat_with_half_close_both_ways() {
    // It half-closes a blocking socket and goes on to read, which redirect breaks now and then: so `auto` keeps it on TCP,
    // and `on` would be the operator's mistake.
    in_both(Acceleration::Auto, &["nc", "ss"], |world| {
        let (question, answer) = (file(world, 41), file(world, 42));
        let here = world.node.files();
        let (asked, answered) = (here.join("asked"), here.join("answered"));
        let [server, client] = [
            format!("nc -N -l 9000 < {} > {}", answer.display(), asked.display()),
            format!(
                "nc -N {} 9000 < {} > {}",
                world.pods[1].v4(),
                question.display(),
                answered.display()
            ),
        ];
        let mut server = shell(world, 1, "nc-server", &server);
        listening(world, 9000);
        shell(world, 0, "nc-client", &client).success(LONG).unwrap();
        server.success(LONG).unwrap();
        assert_is_stream(&asked, 41);
        assert_is_stream(&answered, 42);
    });
}

#[test]
fn redis_with_a_large_value_and_under_load() {
    // redis-cli blocks in recv after a send that had to wait for room: the same hazard as above.
    in_both(
        Acceleration::Auto,
        &["redis-server", "redis-cli", "redis-benchmark"],
        |world| {
            let value = file(world, 43);
            let got = world.node.files().join("got");
            let _server = redis(world);
            let host = world.pods[1].v4();
            redis_cli(world, "-x set key", &value)
                .success(LONG)
                .unwrap();
            // The newline that redis-cli ends its answer with is cut off.
            let get = format!(
                "redis-cli -h {host} get key | head -c {LENGTH} > {}",
                got.display()
            );
            shell(world, 0, "redis-get", &get).success(LONG).unwrap();
            assert_is_stream(&got, 43);
            let load = format!(
                "redis-benchmark -h {host} -n 20000 -c 20 -P 4 -d 500 -t set,get,lrange -q"
            );
            shell(world, 0, "redis-benchmark", &load)
                .success(LONG)
                .unwrap();
        },
    );
}

/// Starts a redis server, and returns it once it listens.
fn redis(world: &World) -> Running {
    let line =
        "redis-server --port 6379 --bind 0.0.0.0 --protected-mode no --save '' --appendonly no";
    let server = shell(world, 1, "redis-server", line);
    listening(world, 6379);
    server
}

/// Runs `redis-cli` with these words and this file as its input.
fn redis_cli(world: &World, words: &str, input: &Path) -> Running {
    let host = world.pods[1].v4();
    let line = format!("redis-cli -h {host} {words} < {}", input.display());
    shell(world, 0, "redis-cli", &line)
}

/// Returns a world whose agent decides soon, or `None`, loudly, where these tests cannot run.
fn decided_soon() -> Option<World> {
    let world = World::with(Some(Acceleration::Auto), &["--observation-window", "1s"])?;
    require_programs(&["redis-server", "redis-cli", "ss"]).then_some(world)
}

/// Runs `request` until the agent has decided on the client.
fn until_decided(world: &World, mut request: impl FnMut()) {
    harness::wait_for("the agent to decide", Duration::from_secs(60), || {
        request();
        world.agent().workload("client").unwrap()["state"] != "observing"
    })
    .unwrap();
}

/// Returns whether this kernel wakes a blocking `recv` without data, so that sends of any length are not for redirect.
fn long_sends_matter(world: &World) -> bool {
    let status = world.agent().status().unwrap();
    status["kernel"]["defects"]
        .to_string()
        .contains("\"long_send_blocking\"")
}

/// Checks that the client stays on TCP for its long sends, and that these work, whatever their number.
fn assert_kept_on_tcp(world: &World, value: &Path) {
    let workload = world.agent().workload("client").unwrap();
    assert_eq!(workload["state"], "not-accelerated", "{workload:#}");
    assert_eq!(
        workload["why"], "blocking recv after a long send",
        "{workload:#}"
    );
    for _ in 0..20 {
        let mut set = redis_cli(world, "-x set key", value);
        assert!(set.success(LONG).unwrap().contains("OK"));
    }
}

#[test]
fn redis_cli_with_large_values_is_not_accelerated() {
    let Some(world) = decided_soon() else {
        return;
    };
    let (_server, value) = (redis(&world), file(&world, 44));
    until_decided(&world, || {
        let mut set = redis_cli(&world, "-x set key", &value);
        assert!(set.success(LONG).unwrap().contains("OK"));
    });
    if long_sends_matter(&world) {
        assert_kept_on_tcp(&world, &value);
    }
}

#[test]
fn redis_cli_with_small_values_is_accelerated_until_they_are_large() {
    let Some(world) = decided_soon() else {
        return;
    };
    let (_server, value) = (redis(&world), file(&world, 45));
    until_decided(&world, || {
        redis_cli(&world, "-r 50 set key value", Path::new("/dev/null"))
            .success(LONG)
            .unwrap();
    });
    let workload = world.agent().workload("client").unwrap();
    assert_eq!(workload["state"], "accelerated", "{workload:#}");
    if !long_sends_matter(&world) {
        return;
    }
    // This one may fail: what was promised is that it is the last.
    redis_cli(&world, "-x set key", &value).wait(LONG).unwrap();
    let client = ["client"];
    world
        .agent()
        .wait_for_state(&client, "not-accelerated", PATIENCE)
        .unwrap();
    assert_kept_on_tcp(&world, &value);
}

#[test]
fn iperf3_in_both_directions() {
    in_both(Acceleration::On, &["iperf3"], |world| {
        for direction in ["", "--reverse", "--parallel 4"] {
            let mut server = shell(
                world,
                1,
                "iperf3-server",
                "iperf3 --server --one-off --port 5201",
            );
            listening(world, 5201);
            let client = format!(
                "iperf3 --client {} --port 5201 --bytes 50M --json {direction}",
                world.pods[1].v4()
            );
            let report = shell(world, 0, "iperf3", &client).success(LONG).unwrap();
            server.wait(LONG).unwrap();
            // Behind it stands what it wrote on standard error.
            let mut values =
                serde_json::Deserializer::from_str(&report).into_iter::<serde_json::Value>();
            let report = values.next().unwrap().unwrap();
            let sent = report["end"]["sum_sent"]["bytes"].as_u64().unwrap();
            let received = report["end"]["sum_received"]["bytes"].as_u64().unwrap();
            assert!(sent >= 50 << 20, "{sent}");
            // The client stops counting when its last byte is sent, or enough was received.
            assert!(
                received > sent / 2 && received <= sent,
                "{received} of {sent}"
            );
        }
    });
}
