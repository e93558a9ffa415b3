//! Who may do what.

use super::TOKEN;
use super::place::Place;
use super::query::Request;
use super::state::State;

/// Somebody who has a token.
#[derive(Clone, Debug)]
pub struct Account {
    /// The token.
    pub token: String,
    /// The name that refusals name.
    pub user: String,
    /// What it may do.
    pub rules: Vec<Rule>,
}

/// A rule as roles have them; `*` is everything.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Where it holds; `None` is everywhere.
    pub namespace: Option<String>,
    /// Groups; empty is the core.
    pub groups: Vec<String>,
    /// Resources, such as `httproutes/status`.
    pub resources: Vec<String>,
    /// Verbs.
    pub verbs: Vec<String>,
    /// Objects by name; none are all.
    pub names: Vec<String>,
}

impl Rule {
    /// Returns a rule for the whole cluster, each list with blanks between its words.
    pub fn new(group: &str, resources: &str, verbs: &str) -> Self {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect();
        Self {
            namespace: None,
            groups: vec![group.to_owned()],
            resources: words(resources),
            verbs: words(verbs),
            names: Vec::new(),
        }
    }

    /// Limits it to a namespace.
    #[must_use]
    pub fn within(self, namespace: &str) -> Self {
        Self {
            namespace: Some(namespace.to_owned()),
            ..self
        }
    }

    /// Limits it to an object.
    #[must_use]
    pub fn of(self, name: &str) -> Self {
        Self {
            names: vec![name.to_owned()],
            ..self
        }
    }

    fn allows(&self, place: &Place, verb: &str) -> bool {
        let has = |list: &[String], word: &str| list.iter().any(|it| it == word || it == "*");
        let is_within = |namespace: &String| place.namespace.as_ref() == Some(namespace);
        let is_named = place
            .name
            .as_ref()
            .is_some_and(|name| self.names.contains(name));
        self.namespace.as_ref().is_none_or(is_within)
            && has(&self.groups, &place.kind.group)
            && has(&self.resources, &place.resource())
            && has(&self.verbs, verb)
            && (self.names.is_empty() || is_named)
    }
}

impl Account {
    /// Returns somebody by name, with what they may do. The token is the name.
    pub fn new(name: &str, rules: Vec<Rule>) -> Self {
        Self {
            token: name.to_owned(),
            user: format!("system:serviceaccount:underpass-system:{name}"),
            rules,
        }
    }

    /// Returns who may do anything.
    pub(super) fn all() -> Self {
        Self {
            token: TOKEN.to_owned(),
            user: "system:serviceaccount:mesh-system:no-rights".to_owned(),
            rules: vec![Rule::new("*", "*", "*")],
        }
    }

    pub(super) fn may(&self, place: &Place, verb: &str) -> bool {
        self.rules.iter().any(|rule| rule.allows(place, verb))
    }
}

/// Returns who sends a request.
pub(super) fn account<'s>(state: &'s State, request: &Request) -> Option<&'s Account> {
    if state.faults.lets_everybody_in && request.header("authorization").is_empty() {
        return state.accounts.first();
    }
    let token = request.header("authorization").strip_prefix("Bearer ")?;
    state.accounts.iter().find(|account| account.token == token)
}

/// Returns what a request does, in the word that rights have for it.
pub(super) fn verb(place: &Place, request: &Request) -> Option<&'static str> {
    let is_object = place.name.is_some();
    match (request.method.as_str(), is_object) {
        ("GET", true) => Some("get"),
        ("GET", false) if request.parameter("watch") == "true" => Some("watch"),
        ("GET", false) => Some("list"),
        ("POST", false) => Some("create"),
        ("PUT", true) => Some("update"),
        ("PATCH", true) => Some("patch"),
        ("DELETE", true) => Some("delete"),
        _ => None,
    }
}
