//! WebSocket, from HTTP/1.1 and from a stream of HTTP/2, to servers of HTTP/1.1.

use super::scene::{Scene, Server, WS, route};

#[test]
fn messages_come_back_whatever_carries_them() {
    let routes = route(82, "") + &route(80, "");
    let Some(scene) = Scene::new(&["curl"], &[Server::Ws, Server::Echo], &routes) else {
        return;
    };
    scene.wait_for_route("all");
    for (name, more) in [("h1", &[][..]), ("h2", &["--http2"][..])] {
        let words = ["ws-talk", "--connect", WS, "--messages", "100"];
        let said = scene.said(name, &[&words[..], more].concat());
        assert_eq!(said[0]["messages"], 100, "{name}: {said:?}");
        assert_eq!(said[0]["close"], 4000, "{name}: {said:?}");
        assert_eq!(said[0]["ended"], true, "{name}: {said:?}");
    }
}
