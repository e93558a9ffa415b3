//! Text of a file to documents: YAML 1.2, or JSON, which is YAML too.
//!
//! One bad document spoils only itself. A line that begins with `---` always starts a document, also inside of a quoted or
//! block scalar (YAML 1.2.2, rule 206 `c-forbidden`), so the text is cut there before anything is parsed.
#![forbid(unsafe_code)]

use serde_saphyr::Error;
use serde_saphyr::options::DuplicateKeyPolicy;

use crate::config::limits;
use crate::config::node::{Node, Value};
use crate::config::problem::Finding;

/// How a finding begins that says that the file is used up.
const TOO_MANY: &str = "the file holds more than";

/// One document that is not empty.
#[derive(Debug)]
pub(crate) struct Document {
    /// Its number in the file, counted from 1, empty ones included.
    pub(crate) number: usize,
    /// What it holds; also there beside a finding when a key stands twice.
    pub(crate) node: Option<Node>,
    /// Why it is not valid YAML.
    pub(crate) finding: Option<Finding>,
}

/// Goes through the documents of a file.
///
/// The cost is bounded by [`limits`], aliases included; what is beyond a limit is one document with a finding.
#[derive(Debug)]
pub(crate) struct Documents {
    nodes_left: usize,
    /// Number of the last document.
    number: usize,
}

impl Default for Documents {
    fn default() -> Self {
        Self {
            nodes_left: limits::NODES,
            number: 0,
        }
    }
}

/// How far the limits were used up, and by which documents.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Used {
    pub(crate) nodes: usize,
    pub(crate) documents: usize,
}

impl Documents {
    /// Returns the number of the last document.
    pub(crate) fn number(&self) -> usize {
        self.number
    }

    /// Returns the document that says so when a limit is reached: what follows is not read.
    pub(crate) fn end(&self, chunk: &Chunk<'_>) -> Option<Document> {
        if self.number >= limits::DOCUMENTS {
            let problem = format!("holds more than {} documents", limits::DOCUMENTS);
            let line = chunk.first_line;
            return Some(broken(self.number + 1, line, problem, "split the file"));
        }
        (self.nodes_left == 0).then(|| too_many_nodes(self.number + 1, chunk.first_line))
    }

    /// Returns the documents of a chunk, without the empty ones, and what they used up.
    pub(crate) fn read(&mut self, chunk: &Chunk<'_>) -> (Vec<Document>, Used) {
        let (nodes, number) = (self.nodes_left, self.number);
        let mut found = Vec::new();
        self.number += 1;
        parse_chunk(chunk, &mut self.number, &mut self.nodes_left, &mut found);
        let used = Used {
            nodes: nodes - self.nodes_left,
            documents: self.number - number,
        };
        (found, used)
    }

    /// Passes over a chunk that was read before, and returns whether the limits allow it.
    pub(crate) fn pass(&mut self, used: Used) -> bool {
        let fits = self.nodes_left > used.nodes;
        if fits {
            self.nodes_left -= used.nodes;
            self.number += used.documents;
        }
        fits
    }
}

fn broken(number: usize, line: u64, problem: String, help: &str) -> Document {
    Document {
        number,
        node: None,
        finding: Some(Finding::error(line, "", problem, help)),
    }
}

fn too_many_nodes(number: usize, line: u64) -> Document {
    let problem = format!(
        "{TOO_MANY} {} values, aliases expanded; the rest of it is not read",
        limits::NODES
    );
    broken(
        number,
        line,
        problem,
        "split the file, or write aliases out",
    )
}

/// The text of one document, and the line of the file that it begins on.
#[derive(Debug)]
pub(crate) struct Chunk<'t> {
    pub(crate) first_line: u64,
    pub(crate) text: &'t str,
}

/// Cuts a text into documents.
pub(crate) fn chunks(text: &str) -> impl Iterator<Item = Chunk<'_>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut starts = vec![(1, 0)];
    let mut offset = 0;
    for (index, line) in (1..).zip(text.split_inclusive('\n')) {
        if offset > 0 && is_document_start(line) {
            starts.push((index, offset));
        }
        offset += line.len();
    }
    let ends: Vec<usize> = starts.iter().skip(1).map(|(_, offset)| *offset).collect();
    let ends = ends.into_iter().chain([text.len()]);
    let chunks = starts
        .into_iter()
        .zip(ends)
        .map(move |((first_line, start), end)| Chunk {
            first_line,
            text: &text[start..end],
        });
    // Comments and directives before the first `---` are no document.
    chunks.filter(|chunk| {
        is_document_start(chunk.text)
            || chunk.text.lines().any(|line| {
                let line = line.trim();
                !(line.is_empty() || line.starts_with(['#', '%']))
            })
    })
}

fn is_document_start(line: &str) -> bool {
    let rest = line.strip_prefix("---");
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

fn parse_chunk(
    chunk: &Chunk<'_>,
    number: &mut usize,
    nodes_left: &mut usize,
    found: &mut Vec<Document>,
) {
    let shift = chunk.first_line - 1;
    let (nodes, finding) = match parse(chunk.text, *nodes_left, DuplicateKeyPolicy::Error) {
        Ok(nodes) => (nodes, None),
        Err(error) => {
            let finding = explain(&error, chunk.first_line);
            *nodes_left = nodes_left.saturating_sub(cost_of_failure(chunk.text, &finding));
            // To know whose key it is, the document is read once more without the second one.
            let again = matches!(error.without_snippet(), Error::DuplicateMappingKey { .. })
                .then(|| parse(chunk.text, *nodes_left, DuplicateKeyPolicy::FirstWins));
            (
                again.and_then(Result::ok).unwrap_or_default(),
                Some(finding),
            )
        }
    };
    if nodes.is_empty() {
        found.extend(finding.map(|finding| Document {
            number: *number,
            node: None,
            finding: Some(finding),
        }));
        return;
    }
    let mut finding = finding;
    let first = *number;
    for (index, mut node) in nodes.into_iter().enumerate() {
        // More than one: `...` ended a document without a `---` to begin the next.
        *number = first + index;
        *nodes_left = nodes_left.saturating_sub(settle(&mut node, shift));
        if !node.is_null() || finding.is_some() {
            found.push(Document {
                number: *number,
                node: Some(node),
                finding: finding.take(),
            });
        }
    }
}

/// Returns how many nodes a document that could not be read is counted as: nobody knows how far the reader came.
fn cost_of_failure(text: &str, finding: &Finding) -> usize {
    if finding.problem.starts_with(TOO_MANY) {
        return limits::NODES;
    }
    if text.contains('&') && text.contains('*') {
        // Aliases make many nodes out of little text: twenty such failures end the file, however far each of them came.
        return limits::NODES / 20;
    }
    // Without them a node takes a byte at least.
    text.len().min(limits::NODES / 20)
}

fn parse(text: &str, nodes: usize, duplicates: DuplicateKeyPolicy) -> Result<Vec<Node>, Error> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_nodes: nodes,
            // Each collection has an end event too, each document two.
            max_events: 2 * limits::NODES + 4 * limits::DOCUMENTS,
            max_depth: limits::DEPTH,
            flow_nesting_limit: limits::DEPTH,
            max_documents: limits::DOCUMENTS,
            max_total_scalar_bytes: 4 * limits::FILE_BYTES,
            max_recorded_anchor_events: limits::NODES,
            max_recorded_anchor_bytes: 4 * limits::FILE_BYTES,
            enforce_alias_anchor_ratio: false,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: nodes,
        },
        duplicate_keys: duplicates,
        // YAML 1.2: `off` is a word, as in `underpass.dev/acceleration: off`.
        strict_booleans: true,
        non_finite_float_policy: serde_saphyr::NonFiniteFloatPolicy::AsString,
        emit_comments: false,
        with_snippet: false,
    };
    serde_saphyr::from_multiple_with_options(text, options)
}

/// Adds `shift` to the lines of a node and returns how many nodes it is.
fn settle(node: &mut Node, shift: u64) -> usize {
    node.line += shift;
    match &mut node.value {
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Text(_) => 1,
        Value::List(list) => {
            1 + list
                .iter_mut()
                .map(|node| settle(node, shift))
                .sum::<usize>()
        }
        Value::Map(entries) => {
            let mut count = 1;
            for entry in entries {
                entry.line += shift;
                count += 1 + settle(&mut entry.node, shift);
            }
            count
        }
    }
}

/// Returns what the YAML library found, in the words of this program.
fn explain(error: &Error, first_line: u64) -> Finding {
    let line = error.location().map_or(1, |location| location.line());
    let line = line.max(1) + first_line - 1;
    let finding = |problem: String, help: &str| Finding::error(line, "", problem, help);
    if let Error::DuplicateMappingKey { key, .. } = error.without_snippet() {
        let key = key.as_deref().unwrap_or("?");
        let problem = format!("the key `{key}` stands twice in one mapping");
        return finding(problem, "keep one of the two");
    }
    // Told by words from here on: the variants arrive wrapped where an alias is involved.
    let text = error.without_snippet().to_string();
    let text = text.split(" at line ").next().unwrap_or(&text);
    let is = |sign: &str| text.contains(sign);
    if is("alias replay limit") || is("budget breached: Nodes") || is("budget breached: Events") {
        let problem = format!("{TOO_MANY} {} values, aliases expanded", limits::NODES);
        return finding(problem, "write aliases out, or split the file");
    }
    if is("recursion limit") || is("budget breached: Depth") {
        let problem = format!("nests more than {} levels deep", limits::DEPTH);
        return finding(problem, "no Kubernetes object does");
    }
    if is("budget breached") {
        let problem = format!("is too large: {text}");
        return finding(problem, "write aliases out, or split the file");
    }
    if is("recursive references") {
        let problem = "an alias refers to the value that it stands in".to_owned();
        return finding(problem, "write the value out");
    }
    let help = if is("tabs") {
        "indent with spaces"
    } else if is("unknown anchor") {
        "put the name in quotes, or define it with `&name` before"
    } else {
        "check indentation, quotes and brackets on this line and just before it"
    };
    finding(format!("is not valid YAML: {text}"), help)
}
