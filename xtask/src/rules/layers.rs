//! Which module of the agent may import which: ARCHITECTURE.md's one direction, as code.

/// From the bottom: a module imports from layers below its own. What serves traffic knows nothing of the command line.
const LAYERS: [&[&str]; 8] = [
    &["chain", "chance", "drain", "heap", "level", "model"],
    &["l7"],
    &["balance", "policy", "telemetry"],
    &["config", "identity", "kernel", "locate", "source"],
    &["admin", "dns", "health", "proxy"],
    &["cli"],
    &["settings"],
    &["agent", "controller", "log"],
];

/// The modules above all layers, which nothing else imports.
const TOP: [&str; 2] = ["lib", "main"];

/// What `ctl` may know. It asks a running agent over the admin socket and is no part of it; `check` reads manifests.
const CTL_MAY: [&str; 8] = [
    "admin",
    "chain",
    "cli",
    "config",
    "model",
    "settings",
    "source",
    "telemetry",
];

/// Imports that the layers forbid and that are meant: sources read manifests into `config`'s raw objects.
const ALSO: [(&str, &str); 1] = [("source", "config")];

/// Imports that the layers allow and that are not meant: these meet only in the snapshot.
const NEVER: [(&str, &str); 2] = [("proxy", "kernel"), ("kernel", "l7")];

/// Crates that only these modules import.
const CONFINED: [(&str, &[&str]); 7] = [
    ("aya", &["kernel"]),
    ("aya_log", &["kernel"]),
    ("aya_obj", &["kernel"]),
    ("hyper_rustls", &["source"]),
    ("k8s_openapi", &["source"]),
    ("kube", &["source"]),
    ("rustls", &["identity", "proxy"]),
];

/// Returns `line: problem` for each import of `text`, a file of `module`, that goes the wrong way.
pub(super) fn problems(module: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    if !is_known(module) {
        found.push(format!(
            "1: module `{module}` has no layer; give it one in xtask/src/rules/layers.rs"
        ));
        return found;
    }
    for (number, to) in imports(text) {
        if is_known(&to) && !may_import(module, &to) {
            found.push(format!("{number}: `{module}` may not import `{to}`"));
        }
    }
    for (line, number) in text.lines().zip(1..).filter(|(line, _)| !is_comment(line)) {
        for (name, modules) in CONFINED {
            if mentions_crate(line, name) && !modules.contains(&module) {
                found.push(format!(
                    "{number}: only {modules:?} may import the crate `{name}`"
                ));
            }
        }
    }
    found
}

fn is_known(module: &str) -> bool {
    module == "ctl" || TOP.contains(&module) || layer(module).is_some()
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

fn may_import(from: &str, to: &str) -> bool {
    if from == to || TOP.contains(&from) || ALSO.contains(&(from, to)) {
        return true;
    }
    if from == "ctl" {
        return CTL_MAY.contains(&to);
    }
    layer(from) > layer(to) && layer(to).is_some() && !NEVER.contains(&(from, to))
}

/// Returns the top-level modules that `text` names after `crate::`, with the line of each.
fn imports(text: &str) -> Vec<(usize, String)> {
    // Comments become empty lines, so that numbers stay right.
    let lines = text.lines().map(|l| if is_comment(l) { "" } else { l });
    let code = lines.collect::<Vec<_>>().join("\n");
    let mut found = Vec::new();
    for (at, root) in code.match_indices("crate::") {
        let number = code[..at].matches('\n').count() + 1;
        let path = &code[at + root.len()..];
        let names = match path.strip_prefix('{') {
            Some(group) => heads(group),
            None => vec![identifier(path)],
        };
        found.extend(names.into_iter().map(|name| (number, name.to_owned())));
    }
    found
}

/// The first identifier of each item of a `use` group, whose opening brace is gone.
fn heads(group: &str) -> Vec<&str> {
    let mut depth = 1;
    let mut at_head = true;
    let mut found = Vec::new();
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => at_head = true,
            _ if at_head && !c.is_whitespace() => {
                found.push(identifier(&group[at..]));
                at_head = false;
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    found
}

/// The identifier that `text` starts with.
fn identifier(text: &str) -> &str {
    let end = text.find(|c: char| !is_identifier(c));
    &text[..end.unwrap_or(text.len())]
}

/// Returns whether a line of code names a path that starts with the crate `name`.
fn mentions_crate(line: &str, name: &str) -> bool {
    line.match_indices(name).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = &line[at + name.len()..];
        let starts = !before.is_some_and(|c| is_identifier(c) || c == ':');
        let imported = line.trim_start().starts_with("use ") && after.starts_with([';', ' ']);
        starts && (after.starts_with("::") || imported)
    })
}

fn is_identifier(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with("//")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imports_run_one_way() {
        for (from, to) in [
            ("kernel", "model"),
            ("agent", "proxy"),
            ("main", "ctl"),
            ("ctl", "admin"),
            ("source", "config"),
        ] {
            assert!(may_import(from, to), "{from} -> {to}");
        }
        for (from, to) in [
            ("model", "kernel"),
            ("telemetry", "kernel"),
            ("config", "source"),
            ("proxy", "kernel"),
            ("ctl", "agent"),
            ("agent", "ctl"),
            ("kernel", "l7"),
        ] {
            assert!(!may_import(from, to), "{from} -> {to}");
        }
    }

    #[test]
    fn every_form_of_import_is_seen() {
        let text = "//! crate::no\nuse crate::agent;\nuse crate::{\n    admin::{api, x},\n    proxy,\n};\nlet x = crate::source::y();\n";
        let found: Vec<_> = imports(text);
        let found: Vec<_> = found.iter().map(|(n, name)| (*n, name.as_str())).collect();
        assert_eq!(
            found,
            [(2, "agent"), (3, "admin"), (3, "proxy"), (7, "source")]
        );
    }

    #[test]
    fn confined_crates_are_found_as_whole_words() {
        assert!(mentions_crate("use aya::maps::Array;", "aya"));
        assert!(mentions_crate("use aya;", "aya"));
        assert!(mentions_crate("let x: &aya::Ebpf = y;", "aya"));
        assert!(!mentions_crate("use aya_obj::Object;", "aya"));
        assert!(!mentions_crate("use crate::kernel::aya::x;", "aya"));
        assert_eq!(problems("proxy", "//! P.\nuse aya::Ebpf;\n").len(), 1);
        assert_eq!(problems("kernel", "//! K.\nuse aya::Ebpf;\n"), [""; 0]);
    }

    #[test]
    fn a_new_module_needs_a_layer() {
        assert_eq!(problems("novelty", "//! N.\n").len(), 1);
    }
}
