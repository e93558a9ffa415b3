//! An agent goes, another comes: nothing is lost, nothing is done twice, and nobody in the pods notices.

use std::time::{Duration, Instant};

use harness::manifest::Acceleration;
use harness::remote::protocol::Piece;
use harness::wait::PATIENCE;
use rustix::process::Signal;
use serde_json::Value;

use crate::counters::Counters;
use crate::pins::Pins;
use crate::pins::version_dir;
use crate::rounds::Rounds;
use crate::world::{MIXED, World, exchange, finish};

/// What has to be the same for the next agent as for the one before.
#[derive(PartialEq, Debug)]
struct State {
    pins: Pins,
    hooks: Value,
    workloads: Vec<Value>,
}

impl State {
    fn of(world: &World) -> Self {
        let agent = world.agent();
        let workloads = ["client", "server"].map(|name| {
            let workload = agent.workload(name).unwrap();
            assert!(workload["id"].as_u64().unwrap() > 0, "{workload:#}");
            workload
        });
        Self {
            pins: Pins::under(agent.bpf_dir()),
            hooks: agent.status().unwrap()["hooks"].clone(),
            workloads: workloads.into(),
        }
    }
}

/// Returns once the new agent has admitted the workloads, as the one before had.
fn wait_for_admission(world: &World) {
    world
        .agent()
        .wait_for_state(
            &["client", "server"],
            "accelerated",
            Duration::from_secs(10),
        )
        .unwrap();
}

/// A connection that is opened and ended, in 1,000 bytes each way. Returns its client's port.
fn short_flow(world: &World) -> u16 {
    let (client, server) = world.join();
    let pieces = (Piece::first(1, 1000), Piece::first(2, 1000));
    exchange((&client, &server), pieces, MIXED);
    finish((&client, &server), pieces);
    client.close().unwrap();
    server.close().unwrap();
    client.local.port()
}

/// Returns the record of the ended flow from this port, once there is one.
fn ended(world: &World, port: u16) -> Value {
    let look = || {
        let flows = world.agent().flows().unwrap();
        let all = flows["flows"].as_array().unwrap();
        let mut found = all.iter().filter(|flow| flow["source"]["port"] == port);
        found.find(|flow| !flow["end"].is_null()).cloned()
    };
    harness::wait::wait_for_some("the record of a flow", Duration::from_secs(10), look).unwrap()
}

#[test]
fn killed_while_flows_are_live() {
    let Some(mut world) = World::new(Some(Acceleration::On)) else {
        return;
    };
    let rounds = Rounds::new(&world);
    let mut flows = 0;
    rounds.during(|| {
        for _ in 0..3 {
            rounds.wait_for_more(20);
            short_flow(&world);
            let state = State::of(&world);
            let counters = Counters::of(world.agent());
            world.agent_mut().kill9().unwrap();

            rounds.wait_for_more(20);
            let port = short_flow(&world);
            flows += 2;

            world.agent_mut().start_again().unwrap();
            wait_for_admission(&world);
            assert_eq!(State::of(&world), state);
            Counters::of(world.agent()).assert_not_fallen(&counters);
            let flow = ended(&world, port);
            assert_eq!(flow["redirected_tx_bytes"], 1000, "{flow:#}");
            assert_eq!(flow["rx_bytes"], 1000, "{flow:#}");
            assert_eq!(flow["source"]["workload"]["name"], "client", "{flow:#}");
            assert_eq!(
                flow["destination"]["workload"]["name"], "server",
                "{flow:#}"
            );
            rounds.wait_for_more(20);
        }
    });
    let live = world.flow(&rounds.client);
    let (up, down) = rounds.finish();
    for (field, bytes) in [
        ("tx_bytes", up),
        ("redirected_tx_bytes", up),
        ("rx_bytes", down),
        ("redirected_rx_bytes", down),
    ] {
        assert_eq!(live[field], bytes, "{live:#}");
    }
    // Everything that was ever sent, whoever ran meanwhile, and each end of a flow once.
    ended(&world, rounds.client.local.port());
    let counters = Counters::of(world.agent());
    let sum = |direction| {
        let labels = ["source=\"client\"", "destination=\"server\"", direction];
        counters.sum("mesh_flow_bytes_total", &labels)
    };
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let float = |number: u64| number as f64;
    assert_eq!(sum("to_destination"), float(up + flows * 1000));
    assert_eq!(sum("to_source"), float(down + flows * 1000));
    assert_eq!(
        counters.sum("mesh_flows_ended_total", &[]),
        float(flows + 1)
    );
    assert_eq!(
        counters.sum("mesh_flows_closed_total", &[]),
        float(flows + 1)
    );
    assert_eq!(
        counters.sum("mesh_flows_opened_total", &[]),
        float(flows + 1)
    );
}

#[test]
fn stalls_are_counted_on_by_the_next_agent() {
    let arguments = ["--stall-timeout", "1s"];
    let Some(mut world) = World::with(Some(Acceleration::On), &arguments) else {
        return;
    };
    for number in [1.0, 2.0] {
        let (client, _server) = world.join();
        client.write(Piece::first(1, 1000), MIXED).unwrap();
        let stalls = |world: &World| {
            let counters = Counters::of(world.agent());
            counters.sum("mesh_flow_stalls_total", &[])
        };
        harness::wait_for("the flow to be reset", PATIENCE, || {
            stalls(&world) == number
        })
        .unwrap();
        world.agent_mut().kill9().unwrap();
        world.agent_mut().start_again().unwrap();
        assert_eq!(stalls(&world), number);
    }
}

#[test]
fn stopped_by_a_signal() {
    for signal in [Signal::TERM, Signal::INT] {
        let Some(mut world) = World::new(Some(Acceleration::On)) else {
            return;
        };
        let rounds = Rounds::new(&world);
        rounds.during(|| {
            rounds.wait_for_more(10);
            let state = State::of(&world);
            let counters = Counters::of(world.agent());
            let started = Instant::now();
            let socket = world.agent().socket().to_owned();
            let status = world.agent_mut().end_by(signal).unwrap();
            // Half a second is what it needs at most; the rest is for a machine that does other things too.
            assert!(
                started.elapsed() < Duration::from_secs(5),
                "{:?}",
                started.elapsed()
            );
            assert_eq!(status.code(), Some(0), "{signal:?}: {status}");
            assert!(!socket.exists());
            assert_eq!(Pins::under(world.agent().bpf_dir()), state.pins);
            rounds.wait_for_more(10);
            world.agent_mut().start_again().unwrap();
            wait_for_admission(&world);
            assert_eq!(State::of(&world), state);
            Counters::of(world.agent()).assert_not_fallen(&counters);
        });
        rounds.finish();
    }
}

#[test]
fn an_admission_that_was_earned_is_kept_and_one_that_was_lost_stays_lost() {
    let window = ["--observation-window", "500ms"];
    let Some(mut world) = World::with(Some(Acceleration::Auto), &window) else {
        return;
    };
    let rounds = Rounds::new(&world);
    rounds.during(|| wait_for_admission(&world));
    // An option is always seen, also when nobody observes any more.
    const SOL_SOCKET: i32 = 1;
    const SO_PEEK_OFF: i32 = 42;
    let seen = |world: &World| {
        let server = world.agent().workload("server").unwrap();
        let behaviours = server["behaviours"].as_array().cloned();
        behaviours.unwrap_or_default().contains(&"peek_off".into())
    };
    rounds
        .server
        .set_option(SOL_SOCKET, SO_PEEK_OFF, 0)
        .unwrap();
    harness::wait_for("the option to be seen", PATIENCE, || seen(&world)).unwrap();
    rounds
        .server
        .set_option(SOL_SOCKET, SO_PEEK_OFF, -1)
        .unwrap();
    let before = ["client", "server"].map(|name| world.agent().workload(name).unwrap());
    world.agent_mut().kill9().unwrap();
    world.agent_mut().start_again().unwrap();
    // Without a new window: an idle workload would never get through one.
    wait_for(&world, "client", &before[0]);
    wait_for(&world, "server", &before[1]);
    rounds.finish();
}

#[test]
fn killed_while_it_starts() {
    let Some(mut world) = World::new(Some(Acceleration::On)) else {
        return;
    };
    let dir = version_dir(world.agent().bpf_dir());
    let pinned = |part: &str| std::fs::read_dir(dir.join(part)).map_or(0, Iterator::count);
    // How far it has come when it is killed: so many maps and links are there.
    for (maps, links) in [(0, 0), (1, 0), (5, 0), (12, 0), (12, 1), (12, 3), (12, 6)] {
        world.agent_mut().uninstall().unwrap();
        let mut command = world.agent().another(&[]).unwrap();
        let mut start = world.node.start("killed-early", &mut command).unwrap();
        harness::wait_for("the start to come so far", PATIENCE, || {
            pinned("maps") >= maps && pinned("links") >= links
        })
        .unwrap();
        start.kill().unwrap();
        world.agent_mut().start_again().unwrap();
        wait_for_admission(&world);
        let status = world.agent().status().unwrap();
        assert_eq!(status["degraded"], Value::Array(vec![]), "{status:#}");
        let rounds = Rounds::new(&world);
        for _ in 0..10 {
            rounds.once();
        }
        let flow = world.flow(&rounds.client);
        assert_eq!(flow["redirected_tx_bytes"], 1000, "{flow:#}");
        assert_eq!(flow["tx_bytes"], 1000, "{flow:#}");
        rounds.finish();
    }
}

fn wait_for(world: &World, name: &str, before: &Value) {
    let same = || world.agent().workload(name).unwrap()["state"] == before["state"];
    harness::wait_for(name, Duration::from_secs(10), same).unwrap();
    assert_eq!(world.agent().workload(name).unwrap()["id"], before["id"]);
}
