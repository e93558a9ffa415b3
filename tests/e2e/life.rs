//! What happens to live connections when the agent comes, goes, or changes its mind: nothing.

use harness::manifest::Acceleration;
use harness::remote::Socket;
use harness::remote::protocol::Piece;

use crate::world::{MIXED, World, exchange, finish};

/// A connection with a history: some bytes went through, and some lie unread.
struct Midstream {
    client: Socket,
    server: Socket,
    up: Piece,
    down: Piece,
    unread: u64,
}

impl Midstream {
    fn new(world: &World) -> Self {
        let (client, server) = world.join();
        let (up, down) = (Piece::first(1, 100_000), Piece::first(2, 100_000));
        exchange((&client, &server), (up, down), MIXED);
        let unread = client.fill(up.then(300_000), (1, 2000)).unwrap();
        assert!(unread > 0);
        Self {
            client,
            server,
            up,
            down,
            unread,
        }
    }

    /// Reads what lay unread, sends more both ways, and ends the connection.
    fn go_on(self) {
        let Self {
            client,
            server,
            up,
            down,
            unread,
        } = self;
        let up = up.then(unread);
        assert_eq!(server.read(up, MIXED).unwrap(), unread);
        let (up, down) = (up.then(1_000_000), down.then(1_000_000));
        exchange((&client, &server), (up, down), MIXED);
        finish((&client, &server), (up, down));
    }
}

#[test]
fn the_agent_is_killed() {
    let Some(mut world) = World::new(Some(Acceleration::On)) else {
        return;
    };
    let midstream = Midstream::new(&world);
    let later = Midstream::new(&world);
    world.agent_mut().kill9().unwrap();
    midstream.go_on();
    // New connections work without an agent too.
    Midstream::new(&world).go_on();
    world.agent_mut().start_again().unwrap();
    later.go_on();
    Midstream::new(&world).go_on();
}

#[test]
fn the_agent_is_stopped_and_started() {
    let Some(mut world) = World::new(Some(Acceleration::On)) else {
        return;
    };
    let (first, second) = (Midstream::new(&world), Midstream::new(&world));
    world.agent_mut().stop().unwrap();
    first.go_on();
    world.agent_mut().start_again().unwrap();
    second.go_on();
}

#[test]
fn the_agent_is_uninstalled() {
    let Some(mut world) = World::new(Some(Acceleration::On)) else {
        return;
    };
    let midstream = Midstream::new(&world);
    world.agent_mut().uninstall().unwrap();
    midstream.go_on();
    Midstream::new(&world).go_on();
}

#[test]
fn the_agent_starts() {
    let Some(world) = World::new(None) else {
        return;
    };
    let midstream = Midstream::new(&world);
    for pod in &world.pods {
        harness::manifest::write(pod, Acceleration::On).unwrap();
    }
    let agent = harness::Agent::start(&world.node, &[]).unwrap();
    agent
        .wait_for_state(
            &["client", "server"],
            "accelerated",
            harness::wait::PATIENCE,
        )
        .unwrap();
    midstream.go_on();
    drop(agent);
}

#[test]
fn the_kill_switch_is_thrown_and_thrown_back() {
    let Some(world) = World::new(Some(Acceleration::On)) else {
        return;
    };
    let (first, second) = (Midstream::new(&world), Midstream::new(&world));
    world.agent().allow_redirect(false).unwrap();
    first.go_on();
    let third = Midstream::new(&world);
    world.agent().allow_redirect(true).unwrap();
    second.go_on();
    third.go_on();
}

#[test]
fn the_mode_changes() {
    let Some(world) = World::new(Some(Acceleration::On)) else {
        return;
    };
    let (first, second) = (Midstream::new(&world), Midstream::new(&world));
    world.switch(Acceleration::Off, "not-accelerated");
    first.go_on();
    let third = Midstream::new(&world);
    world.switch(Acceleration::On, "accelerated");
    second.go_on();
    third.go_on();
}

#[test]
fn a_workload_is_removed() {
    let Some(world) = World::new(Some(Acceleration::On)) else {
        return;
    };
    let midstream = Midstream::new(&world);
    std::fs::remove_file(world.node.manifests().join("server.yaml")).unwrap();
    harness::wait_for(
        "the workload to be forgotten",
        harness::wait::PATIENCE,
        || {
            world
                .agent()
                .workload("server")
                .is_ok_and(|workload| workload.is_null())
        },
    )
    .unwrap();
    midstream.go_on();
}
