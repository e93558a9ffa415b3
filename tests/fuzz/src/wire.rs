//! What of a message is compared, and what the bytes of one may never hold.

use mesh_agent::l7::message::Fields;

/// A message as one side understood it, without what frames it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Message {
    /// Method and target, or the status.
    pub(crate) start: String,
    /// Names in lower case and values, in the order of names; of one name in the order of lines.
    pub(crate) fields: Lines,
    pub(crate) data: Vec<u8>,
    pub(crate) trailers: Lines,
    /// Whether it came to its end.
    pub(crate) whole: bool,
}

/// Names that each hop writes anew.
const FRAMING: [&str; 4] = [
    "connection",
    "content-length",
    "transfer-encoding",
    "upgrade",
];

/// Returns lines for comparison, without those that `own` or framing are.
pub(crate) fn lines<'l>(all: impl Iterator<Item = (&'l str, &'l [u8])>, own: &[&str]) -> Lines {
    let lower = all.map(|(name, value)| (name.to_ascii_lowercase(), value.to_vec()));
    let is_own = |name: &str| FRAMING.contains(&name) || own.contains(&name);
    let mut lines: Vec<_> = lower.filter(|(name, _)| !is_own(name)).collect();
    lines.sort_by(|one, other| one.0.cmp(&other.0));
    lines
}

/// The same, of our own fields.
pub(crate) fn of_fields(fields: &Fields, own: &[&str]) -> Lines {
    lines(fields.iter().map(|field| (field.name, field.value)), own)
}

/// Field lines: names in lower case, and values.
pub(crate) type Lines = Vec<(String, Vec<u8>)>;

/// Checks that a head is written such that no parser reads it in two ways, and returns its lines.
pub(crate) fn strict_head(bytes: &[u8]) -> (String, Lines, &[u8]) {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
    let end = end.unwrap_or_else(|| panic!("a head without an end: {}", shown(bytes)));
    let head = &bytes[..end];
    let mut lines = Vec::new();
    for line in head.split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let plain = line.iter().all(|byte| !matches!(byte, b'\r' | b'\n' | 0));
        assert!(plain, "CR, LF or NUL in a line: {}", shown(bytes));
        lines.push(line);
    }
    let ends = head.windows(2).filter(|two| two == b"\r\n").count();
    assert_eq!(ends + 1, lines.len(), "a bare LF: {}", shown(bytes));
    let (first, fields) = lines.split_first().expect("`split` gives at least one");
    let first = String::from_utf8_lossy(first).into_owned();
    let fields = fields.iter().map(|line| {
        let colon = line.iter().position(|byte| *byte == b':');
        let colon = colon.unwrap_or_else(|| panic!("a line without a colon: {}", shown(bytes)));
        let name = line[..colon].to_ascii_lowercase();
        let is_token =
            |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
        let token = !name.is_empty() && name.iter().all(is_token);
        assert!(token, "a name that is no token: {}", shown(bytes));
        let name = String::from_utf8_lossy(&name).into_owned();
        (name, line[colon + 1..].trim_ascii().to_vec())
    });
    let fields: Vec<_> = fields.collect();
    let count = |name: &str| fields.iter().filter(|line| line.0 == name).count();
    let framings = count("content-length") + count("transfer-encoding");
    assert!(framings <= 1, "framed twice: {}", shown(bytes));
    (first, fields, &bytes[end + 4..])
}

/// Returns bytes for people.
pub(crate) fn shown(bytes: &[u8]) -> String {
    format!("\"{}\"", bytes.escape_ascii())
}
