//! gRPC between tonic's client and tonic's servers.

use super::scene::{GRPC, HTTP, Scene, Server, route, says};

const KINDS: [&str; 4] = ["unary", "client-stream", "server-stream", "both"];

#[test]
fn all_four_kinds_of_calls_with_trailers_and_errors() {
    let routes = route(7070, "") + &route(80, "");
    let Some(scene) = Scene::new(&["curl"], &[Server::Grpc, Server::Echo], &routes) else {
        return;
    };
    scene.wait_for_route("all");
    for kind in KINDS {
        let call = |name: &str, more: &[&str]| {
            let words = ["grpc-call", "--connect", GRPC, "--kind", kind];
            scene.said(&format!("{kind}-{name}"), &[&words[..], more].concat())
        };
        let both = matches!(kind, "server-stream" | "both");
        let answers = call(
            "ok",
            &["--messages", "50", "--size", "20000", "--calls", "3"],
        );
        assert_eq!(answers.len(), 3, "{kind}");
        for answer in &answers {
            assert_eq!(answer["code"], 0, "{kind}: {answer}");
            assert_eq!(answer["answers"], if both { 50 } else { 1 }, "{kind}");
            let fields = answer["fields"].to_string();
            assert!(
                fields.contains("x-route"),
                "{kind} went past the route: {answer}"
            );
        }
        let failed = call("failed", &["--messages", "2", "--status", "9"]);
        assert_eq!(failed[0]["code"], 9, "{kind}: {failed:?}");
        assert_eq!(failed[0]["message"], "as asked: \u{e4}%\n", "{kind}");
        assert!(
            failed[0]["trailers"].to_string().contains("x-why"),
            "{kind}: {failed:?}"
        );
    }
    let unknown = scene.said(
        "unknown",
        &["grpc-call", "--connect", GRPC, "--method", "None"],
    );
    assert_eq!(unknown[0]["code"], 12, "{unknown:?}");
    // A gRPC call to a port of plain HTTP/1 backends has no trailers to come back by.
    let plain = scene.said("plain", &["grpc-call", "--connect", HTTP]);
    assert_eq!(plain[0]["code"], 14, "{plain:?}");
}

#[test]
fn deadlines_are_passed_on_and_kept() {
    let Some(scene) = Scene::new(
        &["curl"],
        &[Server::Grpc, Server::Echo],
        &(route(7070, "") + &route(80, "")),
    ) else {
        return;
    };
    scene.wait_for_route("all");
    let call = |name: &str, more: &[&str]| {
        let words = ["grpc-call", "--connect", GRPC];
        scene.said(name, &[&words[..], more].concat()).remove(0)
    };
    let kept = call("kept", &["--deadline", "5000"]);
    assert_eq!(kept["code"], 0, "{kept}");
    // The server is told what is left: somewhat less than five seconds, in whatever unit.
    let told = kept["deadline"].as_str().unwrap();
    let (number, unit) = told.split_at(told.len() - 1);
    let scale = match unit {
        "n" => 1_000_000_000,
        "u" => 1_000_000,
        "m" => 1000,
        _ => 1,
    };
    let seconds = number.parse::<u64>().unwrap() / scale;
    assert!((1..=5).contains(&seconds), "{told}");
    // tonic's client counts, too, and calls its own end `CANCELLED`; either of them may be first.
    let late = call("late", &["--deadline", "300", "--delay", "20000"]);
    assert!(late["code"] == 4 || late["code"] == 1, "{late}");
}

#[test]
fn calls_are_told_apart_by_method_and_failures_have_their_codes() {
    let routes = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: GRPCRoute\nmetadata: {{name: methods, namespace: default}}\nspec:\n  \
         parentRefs: [{{group: \"\", kind: Service, name: shop, port: 7070}}]\n  rules:\n    - matches: [{{method: {{service: \
         underpass.test.Echo, method: Unary}}}}]\n      backendRefs: [{{name: two, port: 7070}}]\n{}    - matches: [{{method: \
         {{service: underpass.test.Echo, method: ClientStream}}}}]\n      backendRefs: [{{name: absent, port: 7070}}]\n",
        says("unary", 6)
    ) + &route(80, "");
    let Some(scene) = Scene::new(&["curl"], &[Server::Grpc, Server::Echo], &routes) else {
        return;
    };
    scene.wait_for_route("all");
    let call = |kind: &str| {
        let words = [
            "grpc-call",
            "--connect",
            GRPC,
            "--kind",
            kind,
            "--calls",
            "6",
        ];
        scene.said(kind, &words)
    };
    for answer in call("unary") {
        assert_eq!(
            (&answer["code"], &answer["server"]),
            (&0.into(), &"two".into()),
            "{answer}"
        );
    }
    for (kind, code, flag) in [("client-stream", 14, "NC"), ("both", 12, "NR")] {
        for answer in call(kind) {
            assert_eq!(answer["code"], code, "{kind}: {answer}");
        }
        assert_eq!(scene.flags().get(flag), Some(&6), "{:?}", scene.flags());
    }
}
