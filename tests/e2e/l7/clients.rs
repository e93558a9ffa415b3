//! curl and nghttp2 as clients; nginx and haproxy as backends.

use std::fs;

use harness::Running;
use harness::wait_for;

use super::scene::{H2C, HTTP, LONG, Scene, Server, route, says};

/// Returns the JSON that `echo` answered with, behind whatever else curl wrote.
fn echoed(text: &str) -> serde_json::Value {
    let line = text.lines().rev().find(|line| line.starts_with('{'));
    serde_json::from_str(line.unwrap_or_else(|| panic!("no answer in: {text}"))).unwrap()
}

#[test]
fn curl_goes_by_the_route_in_every_version() {
    let routes = route(80, "") + &route(81, "");
    let Some(scene) = Scene::new(&["curl"], &[Server::Echo], &routes) else {
        return;
    };
    scene.wait_for_route("all");
    for (name, options, to, version) in [
        ("h11", "--http1.1", HTTP, "HTTP/1.1"),
        ("h10", "--http1.0", HTTP, "HTTP/1.1"),
        ("h2", "--http2-prior-knowledge", HTTP, "HTTP/1.1"),
        ("h11-h2c", "--http1.1", H2C, "HTTP/2.0"),
        ("h2-h2c", "--http2-prior-knowledge", H2C, "HTTP/2.0"),
    ] {
        let line = format!("curl -s -i -m 10 {options} -H 'X-A: b' 'http://{to}/a/../p%61th?q=1'");
        let wrote = scene.shell(name, &line).unwrap();
        assert!(
            wrote.to_ascii_lowercase().contains("x-route: all"),
            "{name}: {wrote}"
        );
        let echoed = echoed(&wrote);
        assert_eq!(echoed["version"], version, "{name}");
        assert!(
            echoed["target"].as_str().unwrap().ends_with("/path?q=1"),
            "{name}: {echoed}"
        );
        let fields = echoed["fields"].to_string();
        assert!(fields.contains(r#"["x-a","b"]"#), "{name}: {fields}");
    }
    // A body that curl announces with `Expect`, one in chunks, and one that is only asked about.
    fs::write(scene.node.files().join("body"), vec![b'x'; 3 << 20]).unwrap();
    let body = scene.node.files().join("body");
    let body = body.display();
    for (name, options) in [
        ("expect", format!("-T {body} -H 'Expect: 100-continue'")),
        (
            "chunks",
            format!("-T {body} -H 'Transfer-Encoding: chunked'"),
        ),
        ("h2-body", format!("--http2-prior-knowledge -T {body}")),
    ] {
        let wrote = scene
            .shell(name, &format!("curl -s -m 20 {options} http://{HTTP}/"))
            .unwrap();
        assert_eq!(echoed(&wrote)["bytes"], 3 << 20, "{name}");
    }
    let head = scene
        .shell(
            "head",
            &format!("curl -s -m 10 -I 'http://{HTTP}/?bytes=1000'"),
        )
        .unwrap();
    assert!(
        head.to_ascii_lowercase().contains("content-length: 1000"),
        "{head}"
    );
}

#[test]
fn rules_are_told_apart_and_what_none_fits_is_404() {
    let rules = |name: &str, path: &str| {
        format!(
            "    - matches: [{{path: {{type: PathPrefix, value: {path}}}}}]\n      backendRefs: [{{name: {name}, port: 80}}]\n{}",
            says(name, 6)
        )
    };
    let routes = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: paths, namespace: default}}\nspec:\n  \
         parentRefs: [{{group: \"\", kind: Service, name: shop, port: 80}}]\n  rules:\n{}{}    - matches: [{{path: \
         {{type: Exact, value: /}}}}]\n      backendRefs: [{{name: one, port: 80}}]\n{}",
        rules("one", "/v1"),
        rules("two", "/v2"),
        says("root", 6)
    );
    let Some(scene) = Scene::new(&["curl"], &[Server::Echo], &routes) else {
        return;
    };
    scene.wait_for_route("root");
    for (path, expected) in [
        ("/v1", "one"),
        ("/v1/x", "one"),
        ("/v2/", "two"),
        ("/v2/a/b", "two"),
    ] {
        let line = format!("curl -s -i -m 10 http://{HTTP}{path}");
        let wrote = scene
            .shell(&format!("path{}", path.replace('/', "-")), &line)
            .unwrap();
        assert_eq!(echoed(&wrote)["server"], expected, "{path}");
        assert!(wrote.contains(&format!("x-route: {expected}")), "{wrote}");
    }
    for path in ["/v2example", "/other"] {
        let line = format!("curl -s -m 10 -o /dev/null -w '%{{http_code}}' http://{HTTP}{path}");
        let wrote = scene
            .shell(&format!("none{}", path.replace('/', "-")), &line)
            .unwrap();
        assert_eq!(wrote.trim(), "404", "{path}");
    }
    assert_eq!(scene.flags().get("NR"), Some(&2), "{:?}", scene.flags());
}

#[test]
fn nghttp_and_h2load_are_served() {
    let Some(scene) = Scene::new(
        &["nghttp", "h2load", "curl"],
        &[Server::Echo],
        &(route(80, "") + &route(81, "")),
    ) else {
        return;
    };
    scene.wait_for_route("all");
    let wrote = scene
        .shell("nghttp", &format!("nghttp -v http://{H2C}/x"))
        .unwrap();
    assert!(wrote.contains("x-route: all"), "{wrote}");
    for to in [HTTP, H2C] {
        let line = format!("h2load -n 2000 -c 4 -m 50 'http://{to}/?bytes=100'");
        let wrote = scene.shell(&format!("h2load-{to}"), &line).unwrap();
        assert!(
            wrote.contains("2000 succeeded, 0 failed, 0 errored, 0 timeout"),
            "{wrote}"
        );
        assert!(wrote.contains("2000 2xx"), "{wrote}");
    }
}

#[test]
fn nginx_and_haproxy_are_backends() {
    // Of the two, haproxy takes both versions on one port.
    let h2c = format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: h2c, namespace: default}}\nspec:\n  \
         parentRefs: [{{group: \"\", kind: Service, name: shop, port: 81}}]\n  rules:\n    - backendRefs: [{{name: two, port: 81}}]\n{}",
        says("h2c", 6)
    );
    // By time, as is the default, one that was held up once would be asked for nothing more in here.
    let turns = "---\napiVersion: underpass.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: shop, namespace: default}\nspec:\n  \
                 targetRefs: [{group: \"\", kind: Service, name: shop}]\n  balancing: {algorithm: RoundRobin}\n";
    let programs = ["nginx", "haproxy", "curl"];
    let Some(mut scene) = Scene::new(&programs, &[], &(route(80, "") + &h2c + turns)) else {
        return;
    };
    let (nginx, haproxy) = (nginx(&scene), haproxy(&scene));
    scene.servers.extend([nginx, haproxy]);
    scene.wait_for_route("all");
    let mut seen = [0, 0];
    for number in 0..40 {
        let line = format!("curl -s -m 10 http://{HTTP}/x http://{HTTP}/y");
        let wrote = scene.shell(&format!("both-{number}"), &line).unwrap();
        seen[0] += wrote.matches("of nginx").count();
        seen[1] += wrote.matches("of haproxy").count();
    }
    assert_eq!(seen.iter().sum::<usize>(), 80, "{seen:?}");
    assert!(
        seen.iter().all(|count| *count > 0),
        "one was never asked: {seen:?}"
    );
    bodies_go_up(&scene);
    // Both close kept connections without a word; what comes next has a new one.
    for round in 0..3 {
        let idle = "mesh_http_pool_connections{state=\"idle\"} 0";
        wait_for("the backends to close", LONG, || {
            scene.agent.metrics().unwrap().lines().any(|it| it == idle)
        })
        .unwrap();
        let line = format!("curl -s -m 10 http://{HTTP}/x http://{HTTP}/y");
        let wrote = scene.shell(&format!("after-{round}"), &line).unwrap();
        assert_eq!(wrote.matches("0 of ").count(), 2, "{wrote}");
    }
    for (name, options) in [("h1", "--http1.1"), ("h2", "--http2-prior-knowledge")] {
        let line = format!("curl -s -m 10 {options} http://{H2C}/x");
        let wrote = scene.shell(&format!("h2c-{name}"), &line).unwrap();
        assert!(wrote.contains("0 of haproxy by 2.0"), "{name}: {wrote}");
    }
    let flags = scene.flags();
    assert_eq!(flags.keys().collect::<Vec<_>>(), ["-"], "{flags:?}");
}

/// Sends bodies to both, in every way that curl has: each says how long they were.
fn bodies_go_up(scene: &Scene) {
    let body = scene.node.files().join("body");
    fs::write(&body, [b'x'; 10_000]).unwrap();
    let mut seen = [0, 0];
    for (name, options) in [
        ("length", "-H 'Expect:'"),
        ("chunks", "-H 'Expect:' -H 'Transfer-Encoding: chunked'"),
        ("expect", "-H 'Expect: 100-continue'"),
        ("h2", "--http2-prior-knowledge"),
    ] {
        for number in 0..6 {
            let line = format!(
                "curl -s -m 10 {options} -T {} http://{HTTP}/up",
                body.display()
            );
            let wrote = scene.shell(&format!("{name}-{number}"), &line).unwrap();
            let by = ["010000 of nginx by HTTP/1.1", "10000 of haproxy by 1.1"];
            let by = by.iter().position(|it| wrote.contains(it));
            seen[by.unwrap_or_else(|| panic!("{name}: {wrote}"))] += 1;
        }
    }
    assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
}

fn nginx(scene: &Scene) -> Running {
    let files = scene.node.files().join("nginx");
    fs::create_dir_all(&files).unwrap();
    let here = files.display();
    let pod = &scene.backends[0];
    let at = format!("{}:8080", pod.v4());
    let conf = format!(
        "daemon off; user root; worker_processes 1; pid {here}/pid; error_log stderr;\nevents {{}}\nhttp {{ access_log off;\n\
         client_body_temp_path {here}/a; proxy_temp_path {here}/b; fastcgi_temp_path {here}/c;\nuwsgi_temp_path {here}/d;\n\
         scgi_temp_path {here}/e; keepalive_requests 3; keepalive_timeout 500ms; proxy_http_version 1.1;\n\
         server {{ listen {at}; location / {{ return 200 \"0$content_length of nginx by $server_protocol\\n\"; }}\n\
         location /up {{ proxy_pass http://{at}/counted; }} }} }}\n",
    );
    let path = files.join("nginx.conf");
    fs::write(&path, conf).unwrap();
    let mut command = pod.command("nginx");
    command.arg("-c").arg(path).args(["-e", "stderr"]);
    let running = pod.start("nginx", &mut command).unwrap();
    listening(scene, 0);
    running
}

fn haproxy(scene: &Scene) -> Running {
    let pod = &scene.backends[1];
    let conf = format!(
        "defaults\n  mode http\n  timeout client 30s\n  timeout server 30s\n  timeout connect 5s\n  \
         timeout http-keep-alive 500ms\nfrontend web\n  bind {}:8080\n  http-request wait-for-body time 10s\n  \
         http-request return status 200 content-type text/plain lf-string \"%[req.body_size] of haproxy by %[req.ver]\\n\"\n",
        pod.v4()
    );
    let path = scene.node.files().join("haproxy.cfg");
    fs::write(&path, conf).unwrap();
    let mut command = pod.command("haproxy");
    command.arg("-db").arg("-f").arg(path);
    let running = pod.start("haproxy", &mut command).unwrap();
    listening(scene, 1);
    running
}

fn listening(scene: &Scene, backend: usize) {
    let pod = &scene.backends[backend];
    let at = std::net::SocketAddr::new(pod.v4().into(), 8080);
    wait_for("the server to listen", LONG, || {
        pod.enter(|| std::net::TcpStream::connect(at))
            .unwrap()
            .is_ok()
    })
    .unwrap();
}
