//! Routes as users write them.

use std::fmt::Write as _;

/// The manifest of a route, rule by rule.
#[derive(Clone, Debug)]
pub struct Route {
    kind: &'static str,
    name: String,
    parent: String,
    namespace: &'static str,
    more: String,
}

impl Route {
    /// Returns a route of a kind on a service, in the service's namespace.
    pub fn new(kind: &'static str, name: &str, service: &str) -> Self {
        Self {
            kind,
            name: name.to_owned(),
            parent: format!("name: {service}, namespace: <mesh>"),
            namespace: "<mesh>",
            more: String::new(),
        }
    }

    /// For one port of the service.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.parent += &format!(", port: {port}");
        self
    }

    /// In another namespace than the service's.
    #[must_use]
    pub fn within(mut self, namespace: &'static str) -> Self {
        self.namespace = namespace;
        self
    }

    /// With another line of its `spec`.
    #[must_use]
    pub fn line(mut self, line: &str) -> Self {
        self.more += &format!("  {line}\n");
        self
    }

    /// Returns it with rules of YAML, each of whose lines is indented by six at least; `-` goes before the first.
    pub fn rules<T: AsRef<str>>(&self, rules: &[T]) -> String {
        let mut text = format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: {}\nmetadata: {{name: {}, namespace: {}}}\nspec:\n  \
             parentRefs: [{{group: \"\", kind: Service, {}}}]\n{}  rules:\n",
            self.kind, self.name, self.namespace, self.parent, self.more
        );
        for rule in rules {
            let rule = rule.as_ref().trim_start();
            writeln!(text, "    - {}", rule.trim_end())
                .unwrap_or_else(|_| unreachable!("writing to a String cannot fail"));
        }
        text
    }

    /// Returns it with one rule.
    pub fn rule(&self, rule: &str) -> String {
        self.rules(&[rule])
    }
}
