//! Labels of a pod, as one piece of memory that whoever needs them shares.
//!
//! A large cluster has ten thousand pods with a handful of labels each: as a map of strings they took more than all else that is
//! known of these pods.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Labels, in the order of their names.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Labels(Option<Arc<Packed>>);

/// Names and values behind each other.
#[derive(PartialEq, Eq)]
struct Packed {
    text: Box<str>,
    /// Where each name ends, and its value.
    ends: Box<[(u32, u32)]>,
}

/// What can be asked for a label.
pub trait Labelled {
    /// Returns the value of a label.
    fn label(&self, name: &str) -> Option<&str>;
}

impl Labels {
    /// Returns the value of a label.
    pub fn get(&self, name: &str) -> Option<&str> {
        let mut all = self.iter();
        all.find_map(|(key, value)| (key == name).then_some(value))
    }

    /// Returns names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().flat_map(|packed| {
            let mut begin = 0;
            packed.ends.iter().map(move |(key, value)| {
                let (from, middle, end) = (begin, *key as usize, *value as usize);
                begin = end;
                (&packed.text[from..middle], &packed.text[middle..end])
            })
        })
    }
}

impl Labelled for Labels {
    fn label(&self, name: &str) -> Option<&str> {
        self.get(name)
    }
}

impl Labelled for BTreeMap<String, String> {
    fn label(&self, name: &str) -> Option<&str> {
        self.get(name).map(String::as_str)
    }
}

impl From<BTreeMap<String, String>> for Labels {
    fn from(map: BTreeMap<String, String>) -> Self {
        if map.is_empty() {
            return Self::default();
        }
        let mut text = String::new();
        // No object has four gigabytes.
        let end = |text: &String| u32::try_from(text.len()).unwrap_or(u32::MAX);
        let ends = map.iter().map(|(name, value)| {
            text.push_str(name);
            let middle = end(&text);
            text.push_str(value);
            (middle, end(&text))
        });
        let ends = ends.collect();
        let text = text.into_boxed_str();
        Self(Some(Arc::new(Packed { text, ends })))
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_what_went_in() {
        let of = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
            pairs.iter().map(owned).collect()
        };
        for map in [
            of(&[]),
            of(&[("app", "web")]),
            of(&[("", ""), ("a", ""), ("b", "ö\0"), ("example.com/c", "d e")]),
        ] {
            let labels = Labels::from(map.clone());
            let back: BTreeMap<String, String> = labels
                .iter()
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect();
            assert_eq!(back, map);
            for (name, value) in &map {
                assert_eq!(labels.get(name), Some(value.as_str()));
            }
            assert_eq!((labels.get("absent"), labels.label("appw")), (None, None));
        }
        // Cut elsewhere they are others.
        assert_ne!(
            Labels::from(of(&[("ab", "c")])),
            Labels::from(of(&[("a", "bc")]))
        );
    }
}
