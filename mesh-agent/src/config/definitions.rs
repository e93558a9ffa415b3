//! The definitions of our own kinds in `deploy/kubernetes` take what is read here, and refuse what is not.
//!
//! An API server would store what an agent then refuses, or refuse what a manifest may say. So every part of some objects is
//! taken out, replaced and multiplied, and each time both have to be of one mind. What a schema cannot say is listed.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use regex::Regex;
use serde_json::{Map, Value, json};

use crate::config::key::{Key, Kind, Place};
use crate::config::known::{gateway, policy};
use crate::config::node::Unplaced;
use crate::config::object::{self, Object, Outcome};

/// Returns the schema of a kind's objects.
fn schema(resource: &str) -> Value {
    let path = format!("../deploy/kubernetes/agent/crds/{resource}.yaml");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    let text = fs::read_to_string(path).unwrap();
    let definition: Value = serde_saphyr::from_str(&text).unwrap();
    let versions = definition["spec"]["versions"].as_array().unwrap();
    assert_eq!(versions.len(), 1);
    assert_eq!(versions[0]["name"], "v1alpha1");
    versions[0]["schema"]["openAPIV3Schema"].clone()
}

/// Returns whether a value is one that the schema is for; `whole`: its fields are to be known.
fn fits(schema: &Value, value: &Value, whole: bool) -> bool {
    let keywords = schema.as_object().unwrap();
    keywords
        .iter()
        .all(|(keyword, says)| holds(keyword, says, value))
        && (!whole || parts_fit(keywords, value))
}

fn holds(keyword: &str, says: &Value, value: &Value) -> bool {
    let all = || says.as_array().unwrap().iter();
    let count = |length: Option<usize>| length.map(|length| json!(length));
    let items = || count(value.as_array().map(Vec::len));
    let fields = || count(value.as_object().map(Map::len));
    let at_least = |it: Option<Value>| it.is_none_or(|it| it.as_f64() >= says.as_f64());
    let at_most = |it: Option<Value>| it.is_none_or(|it| it.as_f64() <= says.as_f64());
    let number = || value.is_number().then(|| value.clone());
    match keyword {
        "type" => is(says.as_str().unwrap(), value),
        "required" => value
            .as_object()
            .is_none_or(|fields| all().all(|field| fields.contains_key(field.as_str().unwrap()))),
        "enum" => all().any(|one| one == value),
        "pattern" => value
            .as_str()
            .is_none_or(|text| Regex::new(says.as_str().unwrap()).unwrap().is_match(text)),
        "minimum" => at_least(number()),
        "maximum" => at_most(number()),
        "minItems" => at_least(items()),
        "maxItems" => at_most(items()),
        "minProperties" => at_least(fields()),
        "maxProperties" => at_most(fields()),
        "oneOf" => all().filter(|one| fits(one, value, false)).count() == 1,
        "anyOf" => all().any(|one| fits(one, value, false)),
        "allOf" => all().all(|one| fits(one, value, false)),
        "not" => !fits(says, value, false),
        "properties" => value.as_object().is_none_or(|fields| {
            let parts = says.as_object().unwrap();
            let mut parts = parts
                .iter()
                .filter_map(|(name, part)| Some((part, fields.get(name)?)));
            parts.all(|(part, value)| fits(part, value, part.get("type").is_some()))
        }),
        "items" => value
            .as_array()
            .is_none_or(|items| items.iter().all(|item| fits(says, item, true))),
        "additionalProperties" => value
            .as_object()
            .is_none_or(|fields| fields.values().all(|value| fits(says, value, true))),
        "description" | "format" | "x-kubernetes-int-or-string" => true,
        other => panic!("the schema uses `{other}`, which is not known here"),
    }
}

fn is(kind: &str, value: &Value) -> bool {
    match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        other => panic!("the schema has the type `{other}`, which is not known here"),
    }
}

/// Returns whether no field is one that the schema does not name.
fn parts_fit(schema: &Map<String, Value>, value: &Value) -> bool {
    let (Some(fields), None) = (value.as_object(), schema.get("additionalProperties")) else {
        return true;
    };
    let known = schema.get("properties").and_then(Value::as_object);
    fields
        .keys()
        .all(|name| known.is_some_and(|known| known.contains_key(name)))
}

/// Returns whether the agent takes a `spec`.
fn reads(kind: Kind, spec: &Value) -> bool {
    let object = json!({"metadata": {"name": "p", "namespace": "shop"}, "spec": spec});
    let Unplaced(node) = serde_json::from_value(object).unwrap();
    let key = Key {
        kind,
        namespace: "shop".to_owned(),
        name: "p".to_owned(),
    };
    match object::read_api(Place::of_api(&key), kind, &node).outcome {
        Outcome::Valid(_, object) => {
            let is_refused = matches!(&*object, Object::Traffic(it) if it.policy.refused.is_some());
            !is_refused
        }
        Outcome::Invalid(_) | Outcome::Ignored => false,
    }
}

/// Returns the paths of all parts of a value.
fn paths(value: &Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_owned());
    if let Some(fields) = value.as_object() {
        for (name, value) in fields {
            paths(
                value,
                &format!("{at}/{}", name.replace('~', "~0").replace('/', "~1")),
                found,
            );
        }
    }
    for (index, value) in value.as_array().into_iter().flatten().enumerate() {
        paths(value, &format!("{at}/{index}"), found);
    }
}

/// Returns a value in every way in which one of its parts may be wrong, or right in another way.
fn variants(value: &Value) -> Vec<(String, Value)> {
    let others = json!([
        true, 0, 1, -1, 16, 17, 100, 101, 399, 599, 600, 65_536, 10_000_001, 1.5, "", "x", "X-y", "a b", "a/b", "10s", "1m30s",
        "0s", "25h", "1d", "In", "Exists", "Deny", "RingHash", "Service", "SCTP", "10.0.0.0/8", [], ["x"], [1], {}, {"x": "y"}, {"x": 1},
        [{}], {"name": "x"}, {"percent": 5}
    ]);
    let mut all = Vec::new();
    paths(value, "", &mut all);
    let mut found = vec![(String::new(), value.clone())];
    for path in all {
        for other in others.as_array().unwrap() {
            let mut variant = value.clone();
            *variant.pointer_mut(&path).unwrap() = other.clone();
            found.push((path.clone(), variant));
        }
        let part = value.pointer(&path).unwrap();
        if part.is_object() {
            let mut variant = value.clone();
            variant.pointer_mut(&path).unwrap()["nonsense"] = 1.into();
            found.push((path.clone(), variant));
        }
        if let Some(items) = part.as_array() {
            let mut variant = value.clone();
            let many: Vec<Value> = items
                .iter()
                .cycle()
                .take(items.len() * 17)
                .cloned()
                .collect();
            *variant.pointer_mut(&path).unwrap() = many.into();
            found.push((path.clone(), variant));
        }
        let (above, name) = path.rsplit_once('/').unwrap_or_default();
        let mut variant = value.clone();
        if let Some(fields) = variant.pointer_mut(above).and_then(Value::as_object_mut)
            && fields.remove(name).is_some()
        {
            found.push((path, variant));
        }
    }
    found
}

/// Returns the names that a schema has for the fields of a value at a path.
fn names(schema: &Value, path: &str) -> BTreeSet<String> {
    let fields = schema.pointer(&format!("{path}/properties")).unwrap();
    fields.as_object().unwrap().keys().cloned().collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// Holds a kind's schema to what is read; `beyond`: what only the agent can tell, by the path of what is wrong.
fn agree(kind: Kind, resource: &str, specs: &[Value], beyond: impl Fn(&str, &Value) -> bool) {
    let schema = schema(resource);
    let schema = &schema["properties"]["spec"];
    let (mut taken, mut refused) = (0, 0);
    for spec in specs {
        assert!(reads(kind, spec), "{spec:#}");
        for (path, variant) in variants(spec) {
            let (stored, read) = (fits(schema, &variant, true), reads(kind, &variant));
            let part = variant.pointer(&path);
            if stored && !read && beyond(&path, part.unwrap_or(&Value::Null)) {
                continue;
            }
            assert_eq!(stored, read, "stored, read; at `{path}`: {variant:#}");
            *(if read { &mut taken } else { &mut refused }) += 1;
        }
    }
    assert!(
        taken > 100 && refused > 1000,
        "{taken} taken, {refused} refused"
    );
}

#[test]
fn traffic_policies_are_stored_as_they_are_read() {
    let target = json!([{"group": "", "kind": "Service", "name": "cart", "sectionName": "http"}]);
    let specs = [
        json!({"targetRefs": target, "balancing": {"algorithm": "RingHash", "hash": {"header": "x-user"}},
            "outlierDetection": {"consecutiveErrors": 7, "interval": "5s", "baseEjection": "30s", "maxEjectionPercent": 20,
                "successRate": false},
            "circuitBreaker": {"maxConnections": 100, "maxPending": 10, "maxRequests": 1000, "maxRetries": 3},
            "adaptiveConcurrency": {"min": 1, "max": 500}, "requestMetrics": true}),
        json!({"targetRefs": target, "balancing": {"hash": {"cookie": "session"}},
            "rateLimits": [{"name": "each", "requests": 100, "per": "1s", "burst": 200, "algorithm": "SlidingWindow",
                "key": [{"workload": true}, {"header": "x-tenant"}], "route": "shop/web"}],
            "retry": {"codes": [503], "attempts": 1, "backoff": "25ms"}, "whenAgentIsAway": "Continue"}),
        json!({"targetRefs": [{"name": "cart"}], "balancing": {"hash": {"source": true}},
            "fault": {"delay": {"duration": "1s", "percent": 5}, "abort": {"httpStatus": 503, "percent": 1}}}),
        json!({"targetRefs": [{"name": "cart"}], "fault": {"abort": {"grpcStatus": 14, "percent": 1}}}),
    ];
    agree(Kind::TrafficPolicy, "trafficpolicies", &specs, |_, part| {
        // A pattern does not count hours.
        *part == "25h"
    });
    let schema = schema("trafficpolicies");
    let spec = &schema["properties"]["spec"];
    for (path, known) in [
        ("", gateway::TRAFFIC_SPEC),
        ("/properties/targetRefs/items", gateway::TARGET),
        ("/properties/balancing", gateway::BALANCING),
        ("/properties/balancing/properties/hash", gateway::HASH),
        ("/properties/outlierDetection", gateway::OUTLIER),
        ("/properties/circuitBreaker", gateway::BREAKER),
        ("/properties/rateLimits/items", gateway::RATE_LIMIT),
        (
            "/properties/rateLimits/items/properties/key/items",
            gateway::LIMIT_KEY,
        ),
        ("/properties/fault", gateway::FAULT),
        ("/properties/fault/properties/delay", gateway::DELAY),
        ("/properties/fault/properties/abort", gateway::ABORT),
        ("/properties/adaptiveConcurrency", gateway::ADAPTIVE),
        ("/properties/retry", gateway::RETRY),
    ] {
        assert_eq!(names(spec, path), set(known), "{path}");
    }
    assert_eq!(
        names(&schema, "/properties/status"),
        set(gateway::POLICY_STATUS)
    );
}

#[test]
fn authorization_policies_are_stored_as_they_are_read() {
    let expressions = json!([{"key": "role", "operator": "NotIn", "values": ["a", "b"]}, {"key": "role", "operator": "Exists"}]);
    let specs = [
        json!({"targetSelector": {"matchLabels": {"app": "web"}, "matchExpressions": expressions}, "action": "Allow",
            "mode": "DryRun", "rules": [{"name": "callers",
                "from": [{"serviceAccounts": ["cart", "payments/ledger"], "namespaces": {"matchLabels": {"team": "shop"}},
                    "pods": {"matchExpressions": expressions}}],
                "ports": [{"port": 80, "endPort": 600, "protocol": "TCP"}]}]}),
        json!({"targetSelector": {}, "rules": [{}, {"from": [{"pods": {}}, {"namespaces": {}}]},
            {"from": [{"block": "10.0.0.0/8", "except": ["10.1.0.0/16"]}], "ports": [{"port": "dns"}, {"protocol": "UDP"}]}]}),
        json!({"targetSelector": {}}),
    ];
    agree(
        Kind::AuthorizationPolicy,
        "authorizationpolicies",
        &specs,
        |path, _| {
            // Blocks within blocks, and ranges of ports: two fields are to be compared.
            path.contains("/block") || path.contains("/except") || path.contains("/ports/")
        },
    );
    let schema = schema("authorizationpolicies");
    let spec = &schema["properties"]["spec"];
    for (path, known) in [
        ("", policy::AUTHORIZATION_SPEC),
        ("/properties/rules/items", policy::AUTHORIZATION_RULE),
        (
            "/properties/rules/items/properties/from/items",
            policy::AUTHORIZATION_PEER,
        ),
        (
            "/properties/rules/items/properties/ports/items",
            policy::POLICY_PORT,
        ),
        ("/properties/targetSelector", policy::SELECTOR),
        (
            "/properties/targetSelector/properties/matchExpressions/items",
            policy::REQUIREMENT,
        ),
    ] {
        assert_eq!(names(spec, path), set(known), "{path}");
    }
}
