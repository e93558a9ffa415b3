//! Who may do what: what roles and their bindings say of service accounts.

use serde_json::Value;

use super::spec::{items, text};
use crate::apiserver::{Account, Rule, State};

/// Returns the token of a service account.
pub(super) fn token(namespace: &str, name: &str) -> String {
    format!("token-of.{namespace}.{name}")
}

/// Brings what the server knows of accounts up to date.
pub(super) fn follow(state: &mut State) {
    let mut accounts: Vec<Account> = state.all("ServiceAccount").iter().map(account).collect();
    for (bindings, is_everywhere) in [("ClusterRoleBinding", true), ("RoleBinding", false)] {
        for binding in state.all(bindings) {
            let namespace = text(&binding["metadata"]["namespace"]);
            let within = (!is_everywhere).then_some(namespace.as_str());
            let rules = rules(state, &binding["roleRef"], within);
            for subject in items(&binding["subjects"]) {
                let token = token(&text(&subject["namespace"]), &text(&subject["name"]));
                if let Some(account) = accounts.iter_mut().find(|it| it.token == token) {
                    account.rules.extend(rules.iter().cloned());
                }
            }
        }
    }
    // The first is whoever installs.
    state.accounts.truncate(1);
    state.accounts.append(&mut accounts);
}

fn account(object: &Value) -> Account {
    let (namespace, name) = (
        text(&object["metadata"]["namespace"]),
        text(&object["metadata"]["name"]),
    );
    Account {
        token: token(&namespace, &name),
        user: format!("system:serviceaccount:{namespace}:{name}"),
        rules: Vec::new(),
    }
}

fn rules(state: &State, role: &Value, within: Option<&str>) -> Vec<Rule> {
    let home = match role["kind"].as_str() {
        Some("Role") => within.unwrap_or_default(),
        _ => "",
    };
    let role = state.get(&text(&role["kind"]), home, &text(&role["name"]));
    let words = |list: &Value| items(list).map(text).collect();
    let role = role.unwrap_or_default();
    let rules = items(&role["rules"]).map(|rule| Rule {
        namespace: within.map(str::to_owned),
        groups: words(&rule["apiGroups"]),
        resources: words(&rule["resources"]),
        verbs: words(&rule["verbs"]),
        names: words(&rule["resourceNames"]),
    });
    rules.collect()
}
