//! The cases that clusters run, too (`harness::conformance`), here with a real agent between pods of this machine.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use harness::Pod;
use harness::conformance::{self, BACKENDS, Client, Driver, Names, Request, SERVICES, Seen};
use harness::machine::workspace_program;

use super::mesh::{ADDRESSES, Mesh, literal};

struct Local {
    mesh: Mesh,
    names: Names,
}

impl Local {
    fn new(mesh: Mesh) -> Self {
        let mut names = Names::default();
        names.set("mesh", "default");
        names.set("guest", "guest");
        for ((service, _), (v4, v6)) in SERVICES.iter().zip(ADDRESSES) {
            names.set(service, v4);
            names.set(&format!("{service}/6"), &format!("[{v6}]"));
        }
        for (name, pod) in BACKENDS.iter().zip(&mesh.backends) {
            let [v4, v6] = pod.addresses().map(|address: IpAddr| literal(address));
            names.set(&format!("pod {name}"), &v4);
            names.set(&format!("pod {name}/6"), &v6);
        }
        Self { mesh, names }
    }

    fn peer(&self, request: &Request, url: &str, count: u32) -> Result<String> {
        let pod: &Pod = match request.from {
            Client::Own => &self.mesh.client,
            Client::Guest => &self.mesh.guest,
        };
        let mut command: Command = pod.command(workspace_program("peer", "UNDERPASS_PEER")?);
        let output = command.args(request.words(url, count)).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        anyhow::ensure!(output.status.success(), "{output:?}");
        Ok(text)
    }
}

impl Driver for Local {
    fn names(&self) -> &Names {
        &self.names
    }

    fn apply(&mut self, routes: &str) -> Result<()> {
        self.mesh.routes(routes);
        Ok(())
    }

    fn ask(&self, request: &Request, url: &str) -> Result<Seen> {
        let text = self.peer(request, url, 1)?;
        serde_json::from_str(&text).with_context(|| text.clone())
    }

    fn spread(&self, request: &Request, url: &str, count: u32) -> Result<BTreeMap<String, u32>> {
        let text = self.peer(request, url, count)?;
        let answer: serde_json::Value = serde_json::from_str(&text)?;
        serde_json::from_value(answer["answers"].clone()).with_context(|| text.clone())
    }

    fn patience(&self) -> Duration {
        // What was applied is in force at one stroke.
        Duration::ZERO
    }
}

/// Runs the case of this name.
fn run(name: &str) {
    let Some(mesh) = Mesh::new() else { return };
    let mut local = Local::new(mesh);
    let all = conformance::all();
    let case = all.iter().find(|case| case.name == name).unwrap();
    let outcome = conformance::run(case, &mut local).unwrap();
    assert!(
        outcome.checked > 0 && outcome.left_out.is_empty(),
        "{outcome:?}"
    );
}

/// Makes a test of each case.
macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        $(
            #[test]
            fn $name() {
                run(stringify!($name));
            }
        )*

        #[test]
        fn every_case_is_run() {
            let here = [$(stringify!($name)),*];
            let all: Vec<&str> = conformance::all().iter().map(|case| case.name).collect();
            assert_eq!(all, here);
        }
    };
}

cases!(
    a_service_without_a_route_is_as_it_was,
    a_route_is_for_what_is_dialled_whatever_the_host,
    a_route_without_a_port_is_for_every_port,
    a_route_of_another_namespace_is_for_that_namespaces_clients,
    what_no_policy_allows_is_denied,
    paths,
    header_fields_methods_and_queries,
    precedence_is_by_match_over_all_routes,
    header_fields,
    redirects,
    rewrites,
    time_outs,
    retries,
    requests_are_spread_by_weight,
    calls_of_grpc_are_spread_by_weight,
    shares_that_nobody_can_answer,
    calls_go_by_service_method_and_fields,
    http_of_one_version_goes_on_in_the_other,
);
