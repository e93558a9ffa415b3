//! `node-agent services`, `explain` and `policy test`, against a real agent that balances services from manifests.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};

use harness::machine::require_programs;
use harness::manifest::Acceleration;
use harness::wait::PATIENCE;
use harness::wait_for;
use serde_json::Value;

use crate::told::{Told, tell};
use crate::world::World;

const VIP: &str = "10.96.0.10";

/// Writes `shop`, which leads to the server's pod and to an endpoint that is not ready; `idle`, which leads nowhere; and
/// `names`, which is headless.
fn write(world: &World, with_idle: bool) {
    let server = world.pods[1].v4();
    let idle = "---\napiVersion: v1\nkind: Service\nmetadata: {name: idle, namespace: default}\nspec:\n  \
         clusterIP: 10.96.0.11\n  clusterIPs: [10.96.0.11]\n  ports: [{port: 81}]\n";
    let text = format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: shop\n  namespace: default\n  annotations: \
         {{underpass.dev/algorithm: round-robin}}\nspec:\n  clusterIP: {VIP}\n  clusterIPs: [{VIP}]\n  ports: [{{port: 80, targetPort: 8080}}]\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: shop-a\n  namespace: default\n  labels: \
         {{kubernetes.io/service-name: shop}}\naddressType: IPv4\nendpoints:\n  - {{addresses: [{server}], conditions: {{ready: true}}}}\n  - \
         {{addresses: [10.1.2.3], conditions: {{ready: false}}}}\nports: [{{name: '', port: 8080, protocol: TCP}}]\n---\n\
         apiVersion: v1\nkind: Service\nmetadata: {{name: names, namespace: default}}\nspec:\n  clusterIP: None\n  clusterIPs: [None]\n{}",
        if with_idle { idle } else { "" }
    );
    let draft = world.node.files().join("shop.draft");
    fs::write(&draft, text).unwrap();
    fs::rename(&draft, world.node.manifests().join("shop.yaml")).unwrap();
}

fn ask(world: &World, words: &[&str]) -> Told {
    tell(&world.agent().question(&[&["services"], words].concat()))
}

fn json(world: &World, service: &str) -> Option<Value> {
    let told = ask(world, &[service, "--output", "json"]);
    (told.code == Some(0)).then(|| told.json()["services"][0].clone())
}

#[test]
fn services_from_manifests_are_shown_as_they_are_balanced() {
    let Some(world) = World::new(Some(Acceleration::Auto)) else {
        return;
    };
    let unknown = ask(&world, &["default/shop"]);
    assert_eq!(unknown.code, Some(1), "{unknown:?}");
    assert!(
        unknown.err.contains("there is no service default/shop"),
        "{unknown:?}"
    );
    write(&world, false);
    wait_for("the kernel to balance", PATIENCE, || {
        json(&world, "default/shop").is_some_and(|shop| shop["balanced"] == true)
    })
    .unwrap();
    let shop = json(&world, "default/shop").unwrap();
    let port = &shop["ports"][0];
    assert_eq!(port["algorithm"], "round-robin", "{shop}");
    let backends = port["backends"].as_array().unwrap();
    let server = world.pods[1].v4().to_string();
    let find = |address: &str| backends.iter().find(|it| it["address"] == address).unwrap();
    assert_eq!(
        (&find(&server)["weight"], &find(&server)["share"]),
        (&1.into(), &1.0.into()),
        "{shop}"
    );
    let other = find("10.1.2.3");
    assert_eq!(
        (&other["weight"], &other["why"]["reason"]),
        (&0.into(), &"not-ready".into()),
        "{shop}"
    );

    let told = ask(&world, &[]);
    assert_eq!((told.code, told.err.as_str()), (Some(0), ""), "{told:?}");
    for words in [
        "default/shop",
        VIP,
        "round-robin",
        "not ready",
        "100%",
        "headless: clients get the endpoints' addresses",
    ] {
        assert!(told.out.contains(words), "{words}: {}", told.out);
    }

    // A connect without anybody there is no success.
    write(&world, true);
    wait_for("the service without backends", PATIENCE, || {
        ask(&world, &["default/idle"]).code == Some(1)
            && ask(&world, &["default/idle"]).out.contains("no backend")
    })
    .unwrap();
    assert_eq!(ask(&world, &[]).code, Some(1));
    assert_eq!(ask(&world, &["default/shop"]).code, Some(0));
}

#[test]
fn a_backend_whose_listener_has_closed_is_shown_and_explained_as_the_kernel_treats_it() {
    let Some(world) = World::new(Some(Acceleration::Auto)) else {
        return;
    };
    if !require_programs(&["nc"]) {
        return;
    }
    write(&world, false);
    let server = world.pods[1].v4().to_string();
    let health = || {
        // Without a backend it fails, and tells all the same.
        let told = ask(&world, &["default/shop", "--output", "json"]);
        let shop: Value = serde_json::from_str(&told.out).ok()?;
        let backends = shop["services"][0]["ports"][0]["backends"]
            .as_array()?
            .clone();
        let ours = backends.into_iter().find(|it| it["address"] == server)?;
        Some(ours["health"].as_str()?.to_owned())
    };
    let is = |word: &str| health().as_deref() == Some(word);
    wait_for("the service", PATIENCE, || is("ready")).unwrap();
    for name in ["first", "second"] {
        let pod = &world.pods[1];
        let mut nc = pod.command("nc");
        let mut listener = pod.start(name, nc.args(["-k", "-l", "8080"])).unwrap();
        let connects = || {
            let client = &world.pods[0];
            client.enter(|| TcpStream::connect((pod.v4(), 8080)).is_ok())
        };
        wait_for("the server to listen", PATIENCE, || connects().unwrap()).unwrap();
        assert!(is("ready"), "{:?}", health());
        listener.kill().unwrap();
        wait_for("the kernel to see it", PATIENCE, || is("closed")).unwrap();
    }
    let told = ask(&world, &["default/shop"]);
    assert_eq!(told.code, Some(1), "{told:?}");
    for words in ["no backend", "closed", "nobody listens there any more"] {
        assert!(told.out.contains(words), "{words}: {}", told.out);
    }
    for (to, why) in [
        ("default/shop:80", "no backend listens any more"),
        ("default/server:8080", "nobody listens at "),
    ] {
        let question = ["explain", "default/client", to];
        let told = tell(&world.agent().question(&question));
        assert_eq!(told.code, Some(1), "{told:?}");
        assert!(told.out.contains(why), "{told:?}");
    }
    let page = world.agent().metrics().unwrap();
    let line =
        "mesh_service_backends{service_namespace=\"default\",service=\"shop\",state=\"closed\"} 1";
    assert!(page.contains(line), "{page}");
}

#[test]
fn a_node_port_is_explained_at_the_addresses_that_the_kernel_takes() {
    let Some(world) = World::new(Some(Acceleration::Auto)) else {
        return;
    };
    write(&world, false);
    let manifest = world.node.manifests().join("shop.yaml");
    let text = fs::read_to_string(&manifest).unwrap();
    let port = "targetPort: 8080";
    assert!(text.contains(port));
    let text = text.replace(port, "targetPort: 8080, nodePort: 30080");
    let text = text.replace("  clusterIP: 10", "  type: NodePort\n  clusterIP: 10");
    fs::write(&manifest, text).unwrap();
    let explain = |to: &str| {
        let words = ["explain", "default/client", to, "--output", "json"];
        tell(&world.agent().question(&words)).json()
    };
    // The machine's own address, which no Node manifest tells; and that of nobody.
    wait_for("the node port", PATIENCE * 2, || {
        explain("10.77.0.1:30080")["service"]["name"] == "shop"
    })
    .unwrap();
    assert!(explain("10.77.0.99:30080")["service"].is_null());
    assert!(explain("10.77.0.1:30081")["service"].is_null());
    // The kernel agrees: a client of the node port gets to the server.
    let pod = &world.pods[1];
    let listener = pod.enter(|| TcpListener::bind((pod.v4(), 8080)).unwrap());
    let node_port = SocketAddr::from(([10, 77, 0, 1], 30_080));
    let connects = || world.client.connect(node_port).is_ok();
    wait_for("a connection to the node port", PATIENCE, connects).unwrap();
    drop(listener);
}

/// Denies what comes to the server, unless it is for port 9999.
const CLOSED: &str = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: closed, namespace: default}\n\
spec:\n  podSelector: {matchLabels: {app: server}}\n  policyTypes: [Ingress]\n  ingress:\n  - ports: [{port: 9999, protocol: TCP}]\n";

#[test]
fn the_way_of_a_connection_is_explained_as_it_would_go() {
    let Some(world) = World::new(Some(Acceleration::On)) else {
        return;
    };
    let explain = |to: &str| {
        let words = ["explain", "default/client", to, "--output", "json"];
        let told = tell(&world.agent().question(&words));
        (told.code, told.json())
    };
    write(&world, true);
    wait_for("the service to be explained", PATIENCE, || {
        explain("default/shop:80").0 == Some(0)
    })
    .unwrap();
    let (_, answer) = explain(&format!("{VIP}:80"));
    assert_eq!(answer["verdict"], "works", "{answer}");
    assert_eq!(answer["service"]["name"], "shop", "{answer}");
    let destinations = answer["destinations"].as_array().unwrap();
    let server = world.pods[1].v4().to_string();
    let backend = destinations.iter().find(|it| it["address"] == server);
    let backend = backend.unwrap();
    assert_eq!(backend["place"], "here", "{answer}");
    assert_eq!(backend["redirected"], true, "{answer}");
    assert_eq!(backend["policy"]["allowed"], true, "{answer}");

    for (to, why) in [
        ("default/idle:81", "nobody answers for default/idle"),
        ("default/nobody:80", "no service or workload default/nobody"),
        ("default/shop:8080", "default/shop has no port 8080/TCP"),
    ] {
        let (code, answer) = explain(to);
        assert_eq!(
            (code, &answer["verdict"]),
            (Some(1), &"fails".into()),
            "{answer}"
        );
        assert!(answer["why"][0].as_str().unwrap().contains(why), "{answer}");
    }
    let stranger = world
        .agent()
        .question(&["explain", "192.0.2.7", "default/shop:80"]);
    let told = tell(&stranger);
    assert_eq!(told.code, Some(1), "{told:?}");
    assert!(told.out.contains("bypasses the mesh"), "{told:?}");

    fs::write(world.node.manifests().join("closed.yaml"), CLOSED).unwrap();
    wait_for("policy to deny", PATIENCE, || {
        let (code, answer) = explain("default/shop:80");
        code == Some(1) && answer["why"][0] == "policy denies it"
    })
    .unwrap();
    let test = |to: &str| {
        tell(
            &world
                .agent()
                .question(&["policy", "test", "default/client", to]),
        )
    };
    let told = test("default/shop:80");
    assert_eq!(told.code, Some(1), "{told:?}");
    assert!(
        told.out
            .contains("denied, isolated by NetworkPolicy default/closed"),
        "{told:?}"
    );
    let told = test("default/server:9999");
    assert_eq!(told.code, Some(0), "{told:?}");
    assert!(told.out.contains("default/closed ingress"), "{told:?}");
}
