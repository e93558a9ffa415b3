//! Whose requests a route is for, and who stays with whom.

use super::mesh::{ECHO, Mesh, Route, curl, policy};

const V3: &str = "name: chosen\n      \
                  filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-route, value: guest}]}}]\n      \
                  backendRefs: [{name: echo-v3, namespace: default, port: 80}]";

#[test]
fn a_route_of_another_namespace_is_for_that_namespaces_clients() {
    let Some(mesh) = Mesh::new() else { return };
    let consumer = Route::new("HTTPRoute", "ours", "echo")
        .within("guest")
        .port(80);
    let url = format!("http://{ECHO}/x");
    mesh.routes(&consumer.rule(V3));
    let answer = curl(&mesh.guest, &[&url]);
    assert_eq!(
        answer.expect(200, "v3").field("x-route").as_deref(),
        Some("guest")
    );
    // Nobody else is concerned: neither by what it does, nor by going through the agent.
    let answer = mesh.curl(&[&url]);
    assert_eq!(answer.field("x-route"), None, "{answer:?}");
    assert_ne!(answer.backend(), "v3");
    assert_eq!(mesh.logged("/x").len(), 1);
    assert_eq!(mesh.logged("/x")[0]["route"], "guest/ours/chosen");
    // It takes the place of the service's own route, and nothing of that is left for these clients.
    let producer = Route::new("HTTPRoute", "theirs", "echo").port(80);
    let own = "matches: [{path: {type: Exact, value: /own}}]\n      \
               filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-own, value: \"1\"}]}}]\n      \
               backendRefs: [{name: echo-v2, port: 80}]";
    mesh.routes(&(consumer.rule(V3) + &producer.rule(own)));
    let own = format!("http://{ECHO}/own");
    assert_eq!(
        mesh.curl(&[&own])
            .expect(200, "v2")
            .field("x-own")
            .as_deref(),
        Some("1")
    );
    assert_eq!(mesh.curl(&[&url]).status, 404);
    for url in [&own, &url] {
        let answer = curl(&mesh.guest, &[url]);
        assert_eq!(answer.expect(200, "v3").field("x-own"), None);
    }
    // Another port is not the route's.
    let answer = curl(&mesh.guest, &[&format!("http://{ECHO}:8080/")]);
    assert_eq!((answer.status, answer.field("x-route")), (200, None));
}

#[test]
fn rules_are_counted_by_their_names() {
    let Some(mesh) = Mesh::new() else { return };
    let named = V3.replace(
        "name: chosen",
        "name: first\n      matches: [{path: {type: Exact, value: /a}}]",
    );
    let nameless = V3.replace("name: chosen\n      ", "");
    mesh.routes(
        &Route::new("HTTPRoute", "names", "echo")
            .port(80)
            .rules(&[&named, &nameless]),
    );
    mesh.get(&format!("{ECHO}/a")).expect(200, "v3");
    mesh.get(&format!("{ECHO}/b")).expect(200, "v3");
    assert_eq!(mesh.logged("/a")[0]["route"], "default/names/first");
    assert_eq!(mesh.logged("/b")[0]["route"], "default/names/1");
    let metrics = mesh.agent.metrics().unwrap();
    for label in ["route=\"default/names/first\"", "route=\"default/names/1\""] {
        assert!(metrics.contains(label), "{label}: {metrics}");
    }
}

#[test]
fn a_session_stays_with_its_endpoint() {
    let Some(mesh) = Mesh::new() else { return };
    let route = Route::new("HTTPRoute", "session", "echo").port(80);
    let of = |weights: [u32; 2], more: &str| {
        let rule = format!(
            "sessionPersistence: {{type: Cookie, sessionName: place}}\n      \
             backendRefs: [{{name: echo-v1, port: 80, weight: {}}}, {{name: echo-v2, port: 80, weight: {}}}]",
            weights[0], weights[1]
        );
        route.rules(&[
            &rule,
            &format!("matches: [{{path: {{type: Exact, value: /other}}}}]\n      {rule}"),
        ]) + more
    };
    mesh.routes(&of([50, 50], ""));
    let url = format!("http://{ECHO}/s");
    let mut seen = std::collections::BTreeMap::new();
    let mut cookies = Vec::new();
    for _ in 0..20 {
        let first = mesh.curl(&[&url]);
        let set = first
            .field("set-cookie")
            .unwrap_or_else(|| panic!("{first:?}"));
        assert!(
            set.starts_with("place=") && set.contains("HttpOnly"),
            "{set}"
        );
        assert!(
            !set.contains("Max-Age") && !set.contains("Expires"),
            "{set}"
        );
        *seen.entry(first.backend()).or_insert(0) += 1;
        cookies.push((
            format!("cookie: a=b; {}", set.split(';').next().unwrap()),
            first.backend(),
        ));
    }
    assert_eq!(seen.len(), 2, "{seen:?}");
    for (cookie, backend) in &cookies {
        let answer = mesh.curl(&["-H", cookie, &url]);
        assert_eq!(answer.expect(200, backend).field("set-cookie"), None);
    }
    // A session beats weights.
    mesh.routes(&of([0, 100], ""));
    for (cookie, backend) in &cookies {
        mesh.curl(&["-H", cookie, &url]).expect(200, backend);
    }
    mesh.curl(&[&url]).expect(200, "v2");
    // Another rule has other sessions.
    let (cookie, _) = cookies.iter().find(|it| it.1 == "v1").unwrap();
    let other = mesh.curl(&["-H", cookie, &format!("http://{ECHO}/other")]);
    other.expect(200, "v2");
    // What somebody made up is no session.
    let answer = mesh.curl(&["-H", "cookie: place=bm9uZQ", &url]);
    assert!(answer.expect(200, "v2").field("set-cookie").is_some());
}

#[test]
fn a_session_of_a_backend_by_a_header_field() {
    let Some(mesh) = Mesh::new() else { return };
    let spec = "  sessionPersistence: {type: Header, sessionName: x-place}";
    mesh.routes(&policy(
        "XBackendTrafficPolicy",
        "sticky",
        "name: echo",
        spec,
    ));
    let url = format!("http://{ECHO}/s");
    let first = mesh.curl(&[&url]);
    let token = first
        .field("x-place")
        .unwrap_or_else(|| panic!("{first:?}"));
    let line = format!("x-place: {token}");
    for _ in 0..10 {
        mesh.curl(&["-H", &line, &url])
            .expect(200, &first.backend());
    }
}

#[test]
fn rules_on_one_path_whose_sessions_have_one_name_keep_both() {
    let Some(mesh) = Mesh::new() else { return };
    let to = "backendRefs: [{name: echo, port: 8080}]";
    let red = format!("matches: [{{headers: [{{name: color, value: red}}]}}]\n      {to}");
    let routes = Route::new("HTTPRoute", "colors", "echo")
        .port(80)
        .rules(&[&red, to]);
    let spec = "  sessionPersistence: {type: Cookie, sessionName: place}";
    mesh.routes(&(routes + &policy("XBackendTrafficPolicy", "sticky", "name: echo", spec)));
    let url = format!("http://{ECHO}/s");
    // As a browser does: what it was told last is what it sends.
    let mut cookie = "cookie: a=b".to_owned();
    let mut seen = [String::new(), String::new()];
    for round in 0..10 {
        for (rule, color) in ["color: red", "color: blue"].into_iter().enumerate() {
            let answer = mesh.curl(&["-H", &cookie, "-H", color, &url]);
            match (round, answer.field("set-cookie")) {
                (0, Some(set)) => {
                    cookie = format!("cookie: {}", set.split(';').next().unwrap());
                    seen[rule] = answer.backend();
                }
                (1.., None) => drop(answer.expect(200, &seen[rule])),
                (_, told) => panic!("{round} {color}: {told:?} {answer:?}"),
            }
        }
    }
}
