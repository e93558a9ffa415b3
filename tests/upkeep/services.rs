//! `node-agent services`, against a real agent that balances services from manifests.

use std::fs;

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
