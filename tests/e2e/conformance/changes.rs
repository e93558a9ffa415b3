//! Configuration that changes, and an agent that goes away.

use harness::wait::PATIENCE;
use harness::wait_for;

use super::mesh::{ECHO, ECHO6, Mesh, Route, policy};

const FILTERED: &str = "filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-route, value: filtered}]}}]\n      \
                        backendRefs: [{name: echo-v3, port: 80}]";

/// Takes the agent away and asks, by IPv4 and IPv6.
fn away(said: Option<&str>) -> Option<(Mesh, Vec<super::answer::Answer>)> {
    let mut mesh = Mesh::new()?;
    let route = Route::new("HTTPRoute", "filtered", "echo")
        .port(80)
        .rule(FILTERED);
    let said = said.map(|word| {
        policy(
            "TrafficPolicy",
            "away",
            "name: echo",
            &format!("  whenAgentIsAway: {word}"),
        )
    });
    mesh.routes(&(route + &said.unwrap_or_default()));
    mesh.get(&format!("{ECHO}/")).expect(200, "v3");
    mesh.agent.kill9().unwrap();
    let ask = |address: String| mesh.get(&format!("{address}/away"));
    let answers = [ECHO.to_owned(), format!("[{ECHO6}]")].map(ask);
    Some((mesh, answers.into()))
}

#[test]
fn without_the_agent_routes_are_not_passed_by_unless_somebody_says_so() {
    for said in [None, Some("Fail")] {
        let Some((mut mesh, answers)) = away(said) else {
            return;
        };
        for answer in answers {
            assert_eq!((answer.status, answer.exit), (0, 7), "{said:?} {answer:?}");
        }
        assert_eq!(mesh.heard(2, "/away"), 0);
        // What needs no agent goes on.
        let answer = mesh.get(&format!("{ECHO}:8080/"));
        assert_eq!(answer.status, 200, "{answer:?}");
        mesh.agent.start_again().unwrap();
        wait_for("the route", PATIENCE, || {
            mesh.get(&format!("{ECHO}/")).status == 200
        })
        .unwrap();
        let answer = mesh.get(&format!("{ECHO}/"));
        assert_eq!(
            answer.expect(200, "v3").field("x-route").as_deref(),
            Some("filtered")
        );
    }
}

#[test]
fn without_the_agent_connections_go_on_where_somebody_says_so() {
    let Some((mut mesh, answers)) = away(Some("Continue")) else {
        return;
    };
    for answer in answers {
        assert_eq!(
            (answer.status, answer.field("x-route")),
            (200, None),
            "{answer:?}"
        );
    }
    mesh.agent.start_again().unwrap();
    wait_for("the route", PATIENCE, || {
        mesh.get(&format!("{ECHO}/")).field("x-route").as_deref() == Some("filtered")
    })
    .unwrap();
}

#[test]
fn requests_go_on_while_routes_and_endpoints_change() {
    let Some(mesh) = Mesh::new() else { return };
    let route = |number: u32| {
        let rule = FILTERED.replace("echo-v3", &format!("echo-v{number}"));
        Route::new("HTTPRoute", "changing", "echo")
            .port(80)
            .rule(&rule)
    };
    mesh.routes(&route(1));
    let mut load = mesh.client.command("h2load");
    load.args(["--h1", "-c", "8", "-D", "8", &format!("http://{ECHO}/load")]);
    let mut load = mesh.client.start("load", &mut load).unwrap();
    let (mut rounds, mut backend) = (0, 1);
    let services = mesh.node.manifests().join("services.yaml");
    let whole = std::fs::read_to_string(&services).unwrap();
    let draft = mesh.node.files().join("services.draft");
    while load.ended().unwrap().is_none() {
        backend = backend % 3 + 1;
        // Who answers comes and goes, too: the service that is dialled loses and gets back its second endpoint.
        let second = format!("  - {{addresses: [\"{}\"]", mesh.backends[1].v4());
        let kept = |line: &&str| rounds % 2 == 1 || !line.starts_with(&second);
        let lines: Vec<&str> = whole.lines().filter(kept).collect();
        std::fs::write(&draft, lines.join("\n") + "\n").unwrap();
        std::fs::rename(&draft, &services).unwrap();
        mesh.routes(&route(if backend == 2 { 1 } else { backend }));
        rounds += 1;
    }
    let text = load.success(PATIENCE).unwrap();
    let line = |start: &str| {
        text.lines()
            .find(|it| it.starts_with(start))
            .unwrap_or_default()
            .to_owned()
    };
    assert!(
        line("requests:").contains(" 0 failed, 0 errored, 0 timeout"),
        "{text}"
    );
    assert!(
        line("status codes:").contains(" 0 3xx, 0 4xx, 0 5xx"),
        "{text}"
    );
    assert!(
        !line("status codes:").starts_with("status codes: 0 2xx") && rounds > 4,
        "{rounds}: {text}"
    );
    assert!(mesh.heard(0, "/load") > 0 && mesh.heard(2, "/load") > 0);
}
