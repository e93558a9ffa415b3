//! Objects and accounts for tests of the controller: a small cluster, and who may write what.

use std::collections::BTreeMap;

use anyhow::Result;
use harness::apiserver::{Account, Asked, Kind, Rule};
use harness::controller::Controller;
use harness::wait_for;
use mesh_agent::model::status::{CONTROLLER, ParentStatus, Statuses};
use serde_json::{Value, json};

use crate::world::{DEADLINE, World, gateway, namespace, policies, service};

pub(crate) const SYSTEM: &str = "underpass-system";
pub(crate) const GROUP: &str = "gateway.networking.k8s.io";
const EXPERIMENTAL: &str = "gateway.networking.x-k8s.io";
const OWN: &str = "underpass.dev";

/// Name of the account that may write, and of the one that may not.
pub(crate) const WRITER: &str = "underpass-controller";
pub(crate) const READER: &str = "underpass-agent";

/// Times of an election that is over while a test waits for it.
pub(crate) const QUICK: [&str; 6] = [
    "--lease-duration",
    "3s",
    "--lease-renew-deadline",
    "2s",
    "--lease-retry-period",
    "400ms",
];

const READS: &str = "list watch";

/// Returns what agents may do: the rules that are to be given to them.
pub(crate) fn agent_rules() -> Vec<Rule> {
    vec![
        Rule::new("", "pods namespaces nodes services configmaps", READS),
        Rule::new("discovery.k8s.io", "endpointslices", READS),
        Rule::new("networking.k8s.io", "networkpolicies", READS),
        Rule::new("apiextensions.k8s.io", "customresourcedefinitions", READS),
        Rule::new(
            GROUP,
            "httproutes grpcroutes tlsroutes tcproutes udproutes backendtlspolicies referencegrants",
            READS,
        ),
        Rule::new(EXPERIMENTAL, "xbackendtrafficpolicies", READS),
        Rule::new(OWN, "authorizationpolicies trafficpolicies", READS),
    ]
}

/// Returns what the controller may do.
pub(crate) fn controller_rules() -> Vec<Rule> {
    const ROUTES: &str = "httproutes grpcroutes tlsroutes tcproutes udproutes backendtlspolicies";
    let status = |resources: &str| {
        let names: Vec<String> = resources
            .split(' ')
            .map(|it| format!("{it}/status"))
            .collect();
        names.join(" ")
    };
    let lease = || Rule::new("coordination.k8s.io", "leases", "get update");
    vec![
        Rule::new("", "namespaces services configmaps", READS),
        Rule::new("", "nodes", "get list watch patch"),
        Rule::new("networking.k8s.io", "networkpolicies", READS),
        Rule::new("apiextensions.k8s.io", "customresourcedefinitions", READS),
        Rule::new(GROUP, ROUTES, "get list watch"),
        Rule::new(GROUP, "referencegrants", READS),
        Rule::new(GROUP, &status(ROUTES), "patch"),
        Rule::new(
            EXPERIMENTAL,
            "xbackendtrafficpolicies xmeshes",
            "get list watch",
        ),
        Rule::new(
            EXPERIMENTAL,
            &status("xbackendtrafficpolicies xmeshes"),
            "patch",
        ),
        Rule::new(OWN, "authorizationpolicies", READS),
        Rule::new(OWN, "trafficpolicies", "get list watch"),
        Rule::new(OWN, "trafficpolicies/status", "patch"),
        Rule::new("events.k8s.io", "events", "create patch"),
        Rule::new("", "pods", READS).within(SYSTEM),
        Rule::new("coordination.k8s.io", "leases", "create").within(SYSTEM),
        lease().within(SYSTEM).of("underpass-controller"),
    ]
}

/// Returns a server that has every kind, both accounts, some namespaces and services, and no route.
pub(crate) fn world() -> World {
    let world = World::new();
    let more = [
        Kind::custom(GROUP, "v1", "UDPRoute", "udproutes"),
        Kind::custom(
            EXPERIMENTAL,
            "v1alpha1",
            "XBackendTrafficPolicy",
            "xbackendtrafficpolicies",
        ),
        Kind::custom(EXPERIMENTAL, "v1alpha1", "XMesh", "xmeshes"),
        Kind::custom(OWN, "v1alpha1", "TrafficPolicy", "trafficpolicies"),
        policies(),
    ];
    world.server.change(|state| {
        state.define(&gateway());
        state.define(&more);
        state
            .accounts
            .push(Account::new(WRITER, controller_rules()));
        state.accounts.push(Account::new(READER, agent_rules()));
    });
    for name in ["shop", "other", SYSTEM] {
        world.server.set(namespace(name));
    }
    world.server.set(service("web", "10.96.0.1"));
    world.server.set(service("cart", "10.96.0.2"));
    world
}

/// Starts a controller with an account.
pub(crate) fn start(world: &World, name: &str, account: &str) -> Controller {
    let dir = world.dir.path();
    let kubeconfig = world.server.kubeconfig_of(dir, account).unwrap();
    Controller::start(name, &kubeconfig, dir, &QUICK).unwrap()
}

/// Returns a route of the kind to parents, each a service.
pub(crate) fn route(kind: &str, name: &str, parents: &[&str]) -> Value {
    let parents: Vec<Value> = parents
        .iter()
        .map(|it| json!({"group": "", "kind": "Service", "name": it}))
        .collect();
    json!({"apiVersion": format!("{GROUP}/v1"), "kind": kind,
        "metadata": {"name": name, "namespace": "shop", "uid": format!("uid-{name}"), "generation": 1,
            "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"parentRefs": parents, "rules": [{"backendRefs": [{"name": "web", "port": 80}]}]}})
}

/// Returns our entries of an object, without times.
pub(crate) fn entries(object: &Value) -> Vec<Value> {
    let lists = ["parents", "ancestors"].map(|list| object["status"][list].as_array());
    let all = lists.into_iter().flatten().flatten();
    let own = all.filter(|it| it["controllerName"] == CONTROLLER);
    own.map(|entry| {
        let mut entry = entry.clone();
        for condition in entry["conditions"].as_array_mut().unwrap() {
            let time = condition
                .as_object_mut()
                .unwrap()
                .remove("lastTransitionTime");
            assert!(time.is_some_and(|it| it.is_string()));
        }
        entry
    })
    .collect()
}

/// Returns entries as they are to be.
pub(crate) fn wanted(kind: &str, parents: &[ParentStatus]) -> Vec<Value> {
    let reference = match kind.ends_with("Route") {
        true => "parentRef",
        false => "ancestorRef",
    };
    let of = |it: &ParentStatus| json!({"controllerName": CONTROLLER, reference: it.parent, "conditions": it.conditions});
    parents.iter().map(of).collect()
}

/// Returns what the controller says where an agent says this: that there is no service is for each agent to say, since programs register
/// services with it.
fn as_controller(parents: &[ParentStatus]) -> Vec<ParentStatus> {
    let mut parents = parents.to_vec();
    let conditions = parents.iter_mut().flat_map(|it| &mut it.conditions);
    for condition in conditions.filter(|it| it.message.contains(ABSENT)) {
        condition.message = condition.message.replace(ABSENT, UNSEEN);
        if condition.kind == "Accepted" {
            condition.status = "Unknown".to_owned();
            condition.reason = "ServiceNotSeen".to_owned();
        }
    }
    parents
}

/// What an agent says of a service that is not there, and what the controller says.
const ABSENT: &str = ", neither among the objects nor registered with this agent";
const UNSEEN: &str = " among the objects; on nodes where programs registered it with the agent, that says what holds there: `node-agent routes`";

/// Returns the first object whose status is not what an agent says.
pub(crate) fn difference(world: &World, statuses: &Statuses) -> Option<String> {
    let differs = |name: &mesh_agent::model::status::ObjectName| {
        let object = world.server.get(&name.kind, &name.namespace, &name.name)?;
        let (found, wanted) = (
            entries(&object),
            wanted(&name.kind, &as_controller(&statuses[name].parents)),
        );
        (found != wanted).then(|| format!("{name:?}: {found:#?} is not {wanted:#?}"))
    };
    statuses.keys().find_map(differs)
}

/// Waits until every status is what an agent says.
pub(crate) fn until_written(world: &World, statuses: &Statuses) -> Result<()> {
    let waited = wait_for("the statuses", DEADLINE, || {
        difference(world, statuses).is_none()
    });
    waited.map_err(|error| error.context(difference(world, statuses).unwrap_or_default()))
}

/// Waits until an object has a number of our entries.
pub(crate) fn until_entries(world: &World, kind: &str, name: &str, count: usize) -> Result<()> {
    wait_for(&format!("{count} entries of {name}"), DEADLINE, || {
        let object = world.server.get(kind, "shop", name);
        object.is_some_and(|it| entries(&it).len() == count)
    })
}

/// Returns all requests that were to change something, but for those to the lease.
pub(crate) fn writes(world: &World) -> Vec<Asked> {
    let asked = world.server.asked().into_iter();
    let writes = asked.filter(|it| it.method != "GET" && !it.path.contains("/leases"));
    writes.collect()
}

/// Returns who has the lease.
pub(crate) fn holder(world: &World) -> String {
    let lease = world.server.get("Lease", SYSTEM, "underpass-controller");
    let holder = lease.and_then(|it| it["spec"]["holderIdentity"].as_str().map(str::to_owned));
    holder.unwrap_or_default()
}

/// Waits until the lease was renewed so often: time that its leader had to do something.
pub(crate) fn while_renewed(world: &World, times: usize) -> Result<()> {
    let renewals = || {
        let asked = world.server.asked().into_iter();
        asked
            .filter(|it| it.method == "PUT" && it.code == 200)
            .count()
    };
    let before = renewals();
    wait_for("renewals of the lease", DEADLINE, || {
        renewals() >= before + times
    })
}

/// Returns all events, by the object that each is about.
pub(crate) fn events(world: &World) -> BTreeMap<String, Vec<Value>> {
    let mut events: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for event in world.server.change(|state| state.all("Event")) {
        let name = event["regarding"]["name"].as_str().unwrap().to_owned();
        events.entry(name).or_default().push(event);
    }
    events
}
