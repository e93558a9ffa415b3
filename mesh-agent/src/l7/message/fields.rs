//! Header and trailer fields, in their order, in buffers that are kept from one message to the next.

use std::fmt;

/// One field line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Field<'f> {
    /// Its name as it came; names are compared without regard to case.
    pub name: &'f str,
    /// Its value, without white space around it.
    pub value: &'f [u8],
    /// Whether its sender wants it in no table of a compressor (RFC 7541, section 7.1.3).
    pub secret: bool,
}

/// Header or trailer fields. Looking one up is a walk over all: there are ten of them rather than a hundred.
#[derive(Clone, Default)]
pub struct Fields {
    /// Names one after the other, also of lines that were removed.
    names: String,
    /// The same of values.
    values: Vec<u8>,
    lines: Vec<Line>,
}

/// Where a line's name and value are.
#[derive(Clone, Copy, Debug)]
struct Line {
    name: u32,
    name_end: u32,
    value: u32,
    value_end: u32,
    secret: bool,
}

impl Fields {
    /// Returns how many bytes of memory it keeps.
    pub fn capacity(&self) -> usize {
        let lines = size_of::<Line>() * self.lines.capacity();
        self.names.capacity() + self.values.capacity() + lines
    }

    /// Forgets all lines and keeps the memory.
    pub fn clear(&mut self) {
        self.names.clear();
        self.values.clear();
        self.lines.clear();
    }

    /// Returns the number of lines.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Returns whether there is none.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Returns the lines in their order.
    pub fn iter(&self) -> impl Iterator<Item = Field<'_>> {
        self.lines.iter().map(|line| self.field(*line))
    }

    /// Returns the value of the first line of this name.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        let mut fields = self.iter();
        let found = fields.find(|field| field.name.eq_ignore_ascii_case(name));
        found.map(|field| field.value)
    }

    /// Returns the values of all lines of this name, in their order.
    pub fn get_all<'f>(&'f self, name: &'f str) -> impl Iterator<Item = &'f [u8]> {
        let named = self
            .iter()
            .filter(|field| field.name.eq_ignore_ascii_case(name));
        named.map(|field| field.value)
    }

    /// Returns whether there is a line of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Adds a line at the end.
    ///
    /// `name` is a token (RFC 9110, section 5.6.2), and `value` holds no CR, LF or NUL.
    pub fn append(&mut self, name: &str, value: &[u8]) {
        let (name_at, value_at) = (self.names.len(), self.values.len());
        self.names.push_str(name);
        self.values.extend_from_slice(value);
        self.lines.push(Line {
            name: offset(name_at),
            name_end: offset(self.names.len()),
            value: offset(value_at),
            value_end: offset(self.values.len()),
            secret: false,
        });
    }

    /// Adds a line at the end that is to be in no table of a compressor.
    pub fn append_secret(&mut self, name: &str, value: &[u8]) {
        self.append(name, value);
        if let Some(line) = self.lines.last_mut() {
            line.secret = true;
        }
    }

    /// Makes room for what is about to be added: lines, and bytes of their names and of their values.
    pub fn reserve(&mut self, lines: usize, bytes: usize) {
        self.lines.reserve(lines);
        self.names.reserve(bytes);
        self.values.reserve(bytes);
    }

    /// Makes this the only line of its name: in the place of the first one, or at the end.
    pub fn set(&mut self, name: &str, value: &[u8]) {
        let first = self
            .iter()
            .position(|it| it.name.eq_ignore_ascii_case(name));
        let Some(first) = first else {
            return self.append(name, value);
        };
        self.append(name, value);
        if let Some(line) = self.lines.pop() {
            self.lines[first] = line;
        }
        let mut at = 0;
        self.retain(|field| {
            at += 1;
            at - 1 <= first || !field.name.eq_ignore_ascii_case(name)
        });
    }

    /// Removes all lines of this name; returns whether there was one.
    pub fn remove(&mut self, name: &str) -> bool {
        let before = self.len();
        self.retain(|field| !field.name.eq_ignore_ascii_case(name));
        self.len() != before
    }

    /// Removes the lines that `keep` refuses.
    pub fn retain(&mut self, mut keep: impl FnMut(Field<'_>) -> bool) {
        let (names, values) = (&self.names, &self.values);
        self.lines.retain(|line| keep(field(names, values, *line)));
    }

    /// Returns the bytes that names and values have together.
    pub fn size(&self) -> usize {
        let sizes = self
            .iter()
            .map(|field| field.name.len() + field.value.len());
        sizes.sum()
    }

    fn field(&self, line: Line) -> Field<'_> {
        field(&self.names, &self.values, line)
    }
}

fn field<'f>(names: &'f str, values: &'f [u8], line: Line) -> Field<'f> {
    Field {
        name: &names[line.name as usize..line.name_end as usize],
        value: &values[line.value as usize..line.value_end as usize],
        secret: line.secret,
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "heads are bounded by kilobytes, and edits by the manifests that they come from"
)]
fn offset(at: usize) -> u32 {
    at as u32
}

impl PartialEq for Fields {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().eq(other.iter())
    }
}

impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = self
            .iter()
            .map(|field| (field.name, String::from_utf8_lossy(field.value)));
        f.debug_list().entries(lines).finish()
    }
}

impl<'f> FromIterator<(&'f str, &'f str)> for Fields {
    fn from_iter<I: IntoIterator<Item = (&'f str, &'f str)>>(lines: I) -> Self {
        let mut fields = Self::default();
        for (name, value) in lines {
            fields.append(name, value.as_bytes());
        }
        fields
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_compared_without_case_and_keep_theirs() {
        let fields: Fields = [("Host", "a"), ("X-One", "1"), ("x-one", "2")]
            .into_iter()
            .collect();
        assert_eq!(fields.get("x-ONE"), Some(&b"1"[..]));
        let all: Vec<_> = fields.get_all("X-one").collect();
        assert_eq!(all, [b"1", b"2"]);
        assert_eq!(fields.iter().next().map(|field| field.name), Some("Host"));
        assert_eq!(fields.size(), 4 + 1 + 2 * (5 + 1));
    }

    #[test]
    fn what_is_set_stands_once_where_it_first_stood() {
        let mut fields: Fields = [("a", "1"), ("B", "2"), ("c", "3"), ("b", "4")]
            .into_iter()
            .collect();
        fields.set("b", b"new");
        let expected: Fields = [("a", "1"), ("b", "new"), ("c", "3")].into_iter().collect();
        assert_eq!(fields, expected);
        fields.set("d", b"5");
        assert_eq!(fields.len(), 4);
        assert!(fields.remove("A") && !fields.remove("a"));
        fields.clear();
        assert!(fields.is_empty() && !fields.contains("d"));
    }
}
