//! Golden cases: `tests/fixtures/config/<case>/` holds manifests and `expected.txt`, the exact text of `node-agent check`.
//!
//! `BLESS=1 cargo test -p mesh-agent --test config_golden` writes what is printed now; read the difference before you commit it.
#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};

use mesh_agent::config::check::check;
use mesh_agent::model::policy::Policy;
use mesh_agent::model::route::Route;
use mesh_agent::model::service::{Balance, Endpoint, Service};
use mesh_agent::model::status::{ObjectName, ObjectStatus};
use mesh_agent::model::workload::{Acceleration, Workload};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The report, and before it what the directory describes.
fn printed(dir: &Path) -> String {
    let report = check(dir, Acceleration::Auto);
    let mut text = String::new();
    for workload in &report.workloads {
        text += &describe(workload);
    }
    for service in report.services.values() {
        text += &describe_service(service);
    }
    for policy in report.policies.values() {
        text += &describe_policy(policy);
    }
    for route in report.routes.values() {
        text += &describe_route(route);
    }
    for status in report.statuses.values() {
        text += &describe_status(status);
    }
    text += &report.to_string();
    text += &format!("\nexit code {}\n", report.exit_code());
    text
}

fn describe(workload: &Workload) -> String {
    format!(
        "{} {:?} {:?} {} service account {} ({})\n",
        workload.name,
        workload.addresses,
        workload.location,
        workload.acceleration.word(),
        workload.service_account,
        workload.origin
    )
}

fn describe_service(service: &Service) -> String {
    let Service {
        name,
        kind,
        addresses,
        external_addresses,
        affinity,
        distribution,
        balance,
        origin,
        ..
    } = service;
    let mut text = format!(
        "{name} {kind:?} {addresses:?} {external_addresses:?} {distribution:?} affinity {affinity:?} ({origin})\n"
    );
    if service.local_only || service.publish_not_ready {
        let (local, unready) = (service.local_only, service.publish_not_ready);
        text += &format!("  local only {local}, not ready too {unready}\n");
    }
    if *balance != Balance::default() {
        text += &format!("  {balance:?}\n");
    }
    if !service.portless.is_empty() {
        text += "  without ports\n";
    }
    for endpoint in &service.portless {
        text += &describe_endpoint(endpoint);
    }
    for port in &service.ports {
        let (name, number, protocol) = (&port.name, port.number, port.protocol);
        let (node_port, app_protocol) = (port.node_port, &port.app_protocol);
        text += &format!("  {number} {protocol:?} {name:?} {node_port:?} {app_protocol:?}\n");
        for endpoint in &port.endpoints {
            text += &describe_endpoint(endpoint);
        }
    }
    text
}

fn describe_endpoint(endpoint: &Endpoint) -> String {
    let words = [
        (endpoint.ready, "ready"),
        (endpoint.serving, "serving"),
        (endpoint.terminating, "terminating"),
        (endpoint.checked_elsewhere, "checked elsewhere"),
    ];
    let words: Vec<&str> = words
        .into_iter()
        .filter_map(|(is, word)| is.then_some(word))
        .collect();
    let (for_zones, for_nodes) = (endpoint.for_zones(), endpoint.for_nodes());
    let workload = endpoint.workload.as_ref().map(ToString::to_string);
    let Endpoint {
        node,
        zone,
        region,
        weight,
        priority,
        ..
    } = endpoint;
    format!(
        "    {} {} {} at {node:?} {zone:?} {region:?} for {for_zones:?} {for_nodes:?} weight {weight} priority {priority} pod {workload:?}\n",
        endpoint.address,
        endpoint.port,
        words.join(", ")
    )
}

fn describe_policy(policy: &Policy) -> String {
    let Policy {
        name,
        subject,
        action,
        dry_run,
        ingress,
        egress,
        origin,
    } = policy;
    let mut text = format!("{name} {action:?} dry-run {dry_run} for {subject:?} ({origin})\n");
    for (direction, rules) in [("ingress", ingress), ("egress", egress)] {
        let Some(rules) = rules else { continue };
        text += &format!("  {direction}\n");
        for rule in rules {
            let (name, peers, ports) = (&rule.name, &rule.peers, &rule.ports);
            text += &format!("    {name}: peers {peers:?} ports {ports:?}\n");
        }
    }
    text
}

fn describe_route(route: &Route) -> String {
    let Route {
        name,
        created,
        parents,
        rules,
        origin,
    } = route;
    format!("{name} {created:?} ({origin})\n  parents {parents:?}\n  {rules:?}\n")
}

fn describe_status(status: &ObjectStatus) -> String {
    let ObjectName {
        kind,
        namespace,
        name,
    } = &status.object;
    let mut text = format!("status of {kind} {namespace}/{name}\n");
    for parent in &status.parents {
        let of = &parent.parent;
        text += &format!(
            "  {} {}/{} {:?} {:?}\n",
            of.kind, of.namespace, of.name, of.section_name, of.port
        );
        for condition in &parent.conditions {
            text += &format!(
                "    {}={} {} {:?} {}\n",
                condition.kind,
                condition.status,
                condition.reason,
                condition.observed_generation,
                condition.message
            );
        }
    }
    text
}

#[test]
fn every_case_prints_what_is_expected() {
    let cases = root().join("tests/fixtures/config");
    let mut failures = Vec::new();
    let mut count = 0;
    for case in fs::read_dir(cases).unwrap() {
        let case = case.unwrap().path();
        let expected = case.join("expected.txt");
        let now = printed(&case);
        if std::env::var_os("BLESS").is_some() {
            fs::write(&expected, &now).unwrap();
        }
        let then = fs::read_to_string(&expected).unwrap_or_default();
        if then != now {
            let case = case.display();
            failures.push(format!("{case}\n--- expected\n{then}\n--- printed\n{now}"));
        }
        count += 1;
    }
    assert!(count >= 8, "only {count} cases found");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn the_json_form_is_stable() {
    let report = check(
        &root().join("tests/fixtures/config/conflicts"),
        Acceleration::Auto,
    );
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(
        (&json["workloads"], &json["errors"]),
        (&2.into(), &3.into())
    );
    assert_eq!(
        json["problems"][1],
        serde_json::json!({
            "file": "a.yaml",
            "document": 2,
            "line": 9,
            "object": "Pod shop/api",
            "path": "status.podIPs[1].ip",
            "problem": "`10.0.0.1` is the address of Pod shop/web in a.yaml: document 1",
            "help": "every pod needs an address of its own; correct one of the two",
            "severity": "error",
        })
    );
}

#[test]
fn every_example_loads() {
    let report = check(&root().join("deploy/examples"), Acceleration::Auto);
    assert_eq!(report.exit_code(), 0, "{report}");
    assert!(report.problems.is_empty(), "{report}");
    assert_eq!(report.workloads.len(), 2);
}

#[test]
fn a_single_file_can_be_checked() {
    let file = root().join("deploy/examples/quickstart.yaml");
    let report = check(&file, Acceleration::Off);
    assert_eq!(report.to_string(), "2 workloads, 0 errors");
}

#[test]
fn a_directory_that_is_missing_is_told_by_the_exit_code() {
    let dir = tempfile::tempdir().unwrap().path().join("absent");
    let report = check(&dir, Acceleration::Auto);
    assert_eq!(report.exit_code(), 2);
    let expected = format!(
        "{}: no such directory\n  help: create it, or give the right one\n0 workloads, 1 error",
        dir.display()
    );
    assert_eq!(report.to_string(), expected);
}

#[test]
fn what_is_no_regular_file_is_not_opened() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("a.yaml")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", dir.path().join("b.yaml")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("c.yaml")).unwrap();
    let expected = "a.yaml: note: is a directory, which is not read\n  \
        help: only regular files in the directory itself are read\n\
        b.yaml: is a device, not a regular file\n  \
        help: only regular files in the directory itself are read\n\
        c.yaml: is a socket, not a regular file\n  \
        help: only regular files in the directory itself are read\n\
        0 workloads, 2 errors";
    assert_eq!(check(dir.path(), Acceleration::Auto).to_string(), expected);
}

#[test]
fn a_warning_stands_with_its_object_and_is_no_error() {
    let file = root().join("deploy/examples/quickstart.yaml");
    let mut report = check(&file, Acceleration::Auto);
    let name = report.workloads[1].name.clone();
    report.warn(
        &name,
        "no network namespace at `/run/netns/web`",
        "start it",
    );
    let expected = "quickstart.yaml:17: document 2: Pod shop/web: warning: no network namespace at `/run/netns/web`\n  \
        help: start it\n2 workloads, 0 errors";
    assert_eq!(report.to_string(), expected);
    assert_eq!(report.exit_code(), 0);
}
