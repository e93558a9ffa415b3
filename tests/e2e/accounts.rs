//! What the agent counts is what was sent.

use harness::manifest::Acceleration;
use harness::remote::protocol::Piece;
use serde_json::Value;

use crate::world::{World, exchange, finish};

#[test]
fn bytes_of_live_and_ended_flows_are_exact_in_every_mode() {
    for mode in [
        Acceleration::Off,
        Acceleration::Observe,
        Acceleration::Auto,
        Acceleration::On,
    ] {
        let Some(world) = World::new(Some(mode)) else {
            return;
        };
        let (client, server) = world.join();
        let pieces = (Piece::first(1, 12_345), Piece::first(2, 98_765));
        exchange((&client, &server), pieces, (1, 4000));
        let counts = |flow: &Value| flow["tx_bytes"] == 12_345 && flow["rx_bytes"] == 98_765;
        let live = world.flow(&client);
        assert!(counts(&live) && live["end"].is_null(), "{mode:?}: {live:#}");
        let path = if mode == Acceleration::On {
            "redirect"
        } else {
            "tcp"
        };
        assert_eq!(live["path"], path, "{mode:?}: {live:#}");
        finish((&client, &server), pieces);
        client.close().unwrap();
        server.close().unwrap();
        let ended = world.ended_flow(&client);
        assert!(counts(&ended), "{mode:?}: {ended:#}");
        assert_eq!(ended["source"]["workload"]["name"], "client");
        assert_eq!(ended["destination"]["workload"]["name"], "server");
    }
}
