//! `LabelSelector` (`meta/v1`).
#![forbid(unsafe_code)]

use crate::config::known::policy as names;
use crate::config::reader::{Fields, Reader, Unknown};
use crate::model::policy::{LabelSelector, Term};

/// Returns the selector `field`, if it is there. An empty one is there, and selects all.
pub(crate) fn read(reader: &mut Reader, fields: &Fields<'_>, field: &str) -> Option<LabelSelector> {
    let part = reader.child(fields, field)?;
    reader.only(&part, names::SELECTOR, Unknown::Error);
    let mut terms = Vec::new();
    if let Some(labels) = reader.child(&part, "matchLabels") {
        for entry in labels.entries {
            if let Some(value) = reader.string(&entry.node, labels.path_of(&entry.key)) {
                terms.push(Term::In(entry.key.clone(), vec![value.to_owned()]));
            }
        }
    }
    for requirement in reader.mappings(&part, "matchExpressions") {
        terms.extend(term(reader, &requirement));
    }
    Some(LabelSelector { terms })
}

fn term(reader: &mut Reader, fields: &Fields<'_>) -> Option<Term> {
    reader.only(fields, names::REQUIREMENT, Unknown::Error);
    for field in ["key", "operator"] {
        if fields.entry(field).is_none() {
            let help = "write `{key: LABEL, operator: In, values: [...]}`";
            reader.error(fields.line, fields.path_of(field), "is missing", help);
        }
    }
    let key = reader.text(fields, "key")?.to_owned();
    let operators = ["In", "NotIn", "Exists", "DoesNotExist"];
    let operator = reader.word(fields, "operator", &operators)?;
    let values: Vec<String> = reader
        .strings(fields, "values")
        .into_iter()
        .map(|(value, ..)| value.to_owned())
        .collect();
    let wants_values = matches!(operator, "In" | "NotIn");
    if wants_values == values.is_empty() {
        let problem = match wants_values {
            true => format!("operator `{operator}` needs values"),
            false => format!("operator `{operator}` takes no values"),
        };
        let help = "`In` and `NotIn` take values, `Exists` and `DoesNotExist` none";
        reader.error(fields.line, fields.path_of("values"), problem, help);
    }
    Some(match operator {
        "In" => Term::In(key, values),
        "NotIn" => Term::NotIn(key, values),
        "Exists" => Term::Exists(key),
        _ => Term::DoesNotExist(key),
    })
}
