//! From a request to the few matches that could fit it.
//!
//! Exact paths are found by hash, prefixes by walking a tree of path elements. Where many matches have one path and differ by a
//! field or a parameter, such as the tenant, those are found by its value. All that is left is tried in order. A match is its rank: its
//! place in the list of all, in the order in which they are tried.

use std::collections::HashMap;

use crate::l7::route::candidate::{Candidate, PathTest};
use crate::l7::route::view::RequestView;
use crate::model::route::ValueMatch;

/// A group of fewer matches than this is tried one by one: comparing is then cheaper than looking up.
const KEYED_FROM: usize = 8;

/// Up to this many names are looked up in the request; beyond, the request's are looked up among them.
const NAMES: usize = 8;

/// All matches of a table, by what they ask for.
#[derive(Debug, Default)]
pub(super) struct Index {
    exact: HashMap<Box<str>, Group>,
    /// Bytes of the longest exact path: nothing longer is worth a hash.
    longest: usize,
    /// The first is the root.
    nodes: Vec<Node>,
}

/// A path element below its parents.
#[derive(Debug, Default)]
struct Node {
    children: HashMap<Box<str>, usize>,
    group: Group,
    /// The nearest one above that has matches.
    above: Option<usize>,
}

/// Matches that are told apart by nothing of the path.
#[derive(Debug, Default)]
struct Group {
    plain: Vec<u32>,
    keyed: HashMap<Key, HashMap<Box<[u8]>, Vec<u32>>>,
}

/// What tells matches of a group apart.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
enum Key {
    /// The value of a field, whose name is in lower case.
    Header(Box<str>),
    Query(Box<str>),
}

impl Index {
    /// Returns the index of these matches, which are in the order in which they are tried.
    pub(super) fn new(candidates: &[Candidate]) -> Self {
        let mut index = Self {
            nodes: vec![Node::default()],
            ..Self::default()
        };
        for (rank, candidate) in (0..).zip(candidates) {
            let group = match place(&candidate.path) {
                Place::Exact(path) => {
                    index.longest = index.longest.max(path.len());
                    index.exact.entry(path.into()).or_default()
                }
                Place::Below(path) => index.node(&path),
            };
            group.plain.push(rank);
        }
        let groups = index.exact.values_mut();
        let nodes = index.nodes.iter_mut().map(|node| &mut node.group);
        groups.chain(nodes).for_each(|it| it.divide(candidates));
        index.link(0, None);
        index
    }

    fn node(&mut self, path: &str) -> &mut Group {
        let mut at = 0;
        for element in elements(path) {
            let next = self.nodes.len();
            let children = &mut self.nodes[at].children;
            at = *children.entry(element.into()).or_insert(next);
            if at == next {
                self.nodes.push(Node::default());
            }
        }
        &mut self.nodes[at].group
    }

    fn link(&mut self, root: usize, above: Option<usize>) {
        let mut open = vec![(root, above)];
        while let Some((at, above)) = open.pop() {
            let node = &mut self.nodes[at];
            node.above = above;
            let above = if node.group.is_empty() {
                above
            } else {
                Some(at)
            };
            open.extend(node.children.values().map(|child| (*child, above)));
        }
    }

    /// Returns the rank of the first match that fits.
    pub(super) fn first(&self, request: &RequestView<'_>, all: &[Candidate]) -> Option<u32> {
        let mut best = u32::MAX;
        if request.path.len() <= self.longest
            && let Some(group) = self.exact.get(request.path)
        {
            group.first(request, all, &mut best);
        }
        let mut deepest = 0;
        for element in elements(request.path) {
            match self.nodes[deepest].children.get(element) {
                Some(child) => deepest = *child,
                None => break,
            }
        }
        let mut at = Some(deepest);
        while let Some(node) = at.map(|at| &self.nodes[at]) {
            node.group.first(request, all, &mut best);
            at = node.above;
        }
        (best != u32::MAX).then_some(best)
    }
}

/// Where a match is kept.
enum Place<'p> {
    Exact(std::borrow::Cow<'p, str>),
    Below(std::borrow::Cow<'p, str>),
}

fn place(path: &PathTest) -> Place<'_> {
    use std::borrow::Cow;
    match path {
        PathTest::Exact(path) => Place::Exact(Cow::Borrowed(path)),
        PathTest::Prefix(path) => Place::Below(Cow::Borrowed(path)),
        PathTest::Regex(pattern) => Place::Below(Cow::Borrowed(fixed(pattern.as_str()))),
        PathTest::Call(call) => match (&call.service, &call.method) {
            (Some(ValueMatch::Exact(service)), Some(ValueMatch::Exact(method))) => {
                Place::Exact(Cow::Owned(format!("/{service}/{method}")))
            }
            (Some(ValueMatch::Exact(service)), _) => {
                Place::Below(Cow::Owned(format!("/{service}")))
            }
            _ => Place::Below(Cow::Borrowed("")),
        },
    }
}

fn elements(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').skip(1)
}

/// Returns whole path elements that everything begins with that a pattern fits; nothing, where that is not plain to see.
fn fixed(pattern: &str) -> &str {
    const META: [char; 13] = [
        '.', '^', '$', '*', '+', '?', '(', ')', '[', ']', '{', '}', '\\',
    ];
    if !pattern.starts_with('/') || pattern.contains('|') {
        return "";
    }
    let end = pattern.find(META).unwrap_or(pattern.len());
    let literal = &pattern[..end];
    // What follows may make the last character optional.
    let mut sure = literal.chars();
    sure.next_back();
    let sure = sure.as_str();
    // Up to a slash that is there for sure, and without it.
    sure.rfind('/').map_or("", |slash| &sure[..slash])
}

impl Group {
    fn is_empty(&self) -> bool {
        self.plain.is_empty() && self.keyed.is_empty()
    }

    /// Puts matches apart by the field or parameter that tells most of them apart.
    fn divide(&mut self, all: &[Candidate]) {
        if self.plain.len() < KEYED_FROM {
            return;
        }
        let mut values: HashMap<Key, HashMap<Box<[u8]>, usize>> = HashMap::new();
        for rank in &self.plain {
            for (key, value) in keys(&all[*rank as usize]) {
                *values.entry(key).or_default().entry(value).or_default() += 1;
            }
        }
        let many = |key: &Key| values.get(key).map_or(0, HashMap::len);
        for rank in std::mem::take(&mut self.plain) {
            let of_rank = keys(&all[rank as usize]).into_iter();
            let best = of_rank.max_by(|(one, _), (other, _)| {
                many(one).cmp(&many(other)).then_with(|| one.cmp(other))
            });
            let list = match best {
                Some((key, value)) => {
                    let values = self.keyed.entry(key).or_default();
                    values.entry(value).or_default()
                }
                None => &mut self.plain,
            };
            list.push(rank);
        }
    }

    /// Lowers `best` to the first rank that fits, if there is one below it.
    fn first(&self, request: &RequestView<'_>, all: &[Candidate], best: &mut u32) {
        let mut walk = |list: &[u32]| {
            for rank in list {
                if *rank >= *best {
                    return;
                }
                if all[*rank as usize].fits(request) {
                    *best = *rank;
                    return;
                }
            }
        };
        walk(&self.plain);
        if self.keyed.is_empty() {
            return;
        }
        if self.keyed.len() <= NAMES {
            for (key, values) in &self.keyed {
                let list = match key {
                    Key::Header(name) => request.header(name).and_then(|value| values.get(&*value)),
                    Key::Query(name) => request
                        .parameter(name)
                        .and_then(|value| values.get(value.as_bytes())),
                };
                list.into_iter().for_each(|list| walk(list));
            }
            return;
        }
        let mut look = |key: Key, value: &[u8]| {
            let values = self.keyed.get(&key);
            let list = values.and_then(|values| values.get(value));
            list.into_iter().for_each(|list| walk(list));
        };
        let host = std::iter::once("host");
        for name in request.fields.iter().map(|field| field.name).chain(host) {
            let name = name.to_ascii_lowercase();
            if let Some(value) = request.header(&name) {
                look(Key::Header(name.into()), &value);
            }
        }
        for (name, value) in request.parameters() {
            look(Key::Query(name.into()), value.as_bytes());
        }
    }
}

/// Returns every value that a match asks for.
fn keys(candidate: &Candidate) -> Vec<(Key, Box<[u8]>)> {
    let value = |value: &ValueMatch| match value {
        ValueMatch::Exact(text) => Some(text.as_bytes().into()),
        ValueMatch::Regex(_) => None,
    };
    let headers = candidate.headers.iter().filter_map(|it| {
        let name = it.name.as_str();
        Some((Key::Header(name.into()), value(&it.value)?))
    });
    let query = candidate.query.iter().filter_map(|it| {
        let name = it.name.as_str();
        Some((Key::Query(name.into()), value(&it.value)?))
    });
    headers.chain(query).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_sure_is_fixed() {
        for (pattern, expected) in [
            ("/api/v[0-9]+/x", "/api"),
            ("/api/v1/x", "/api/v1"),
            ("/api/?x", ""),
            ("/api/v1/?", "/api"),
            ("/api/.*", ""),
            ("/api//.*", "/api"),
            ("/a/b|/c/d", ""),
            ("[/]a", ""),
            (".*", ""),
            ("", ""),
            ("/", ""),
        ] {
            assert_eq!(fixed(pattern), expected, "{pattern}");
        }
    }
}
