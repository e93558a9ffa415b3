//! Whatever a file holds, reading it ends soon, without a panic, and says what is wrong.
#![forbid(unsafe_code)]

use std::time::Duration;

use proptest::prelude::*;

use super::Content;
use crate::config::limits;
use crate::config::object::Outcome;

const MANIFEST: &str = include_str!("../../../../tests/fixtures/config/valid/pods.yaml");

/// Much longer than any file within the limits takes of a core, much shorter than one that gets out of hand.
const SOON: Duration = Duration::from_secs(20);

/// Returns the time that this thread has had a core for: others may want it, too.
fn worked() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap()
}

/// Returns the problems with a file that are said, one after the other.
fn problems(bytes: &[u8]) -> String {
    let start = worked();
    let content = Content::parse("a.yaml", bytes, None);
    let took = worked() - start;
    assert!(took < SOON, "{took:?}");
    let of_items = content.items.iter().flat_map(|item| &item.problems);
    let problems = content.problems.iter().chain(of_items);
    problems
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("\n")
}

fn assert_problem(text: &str, part: &str) {
    let problems = problems(text.as_bytes());
    assert!(problems.contains(part), "no {part:?} in {problems}");
}

fn valid(content: &Content) -> usize {
    let is_valid = |outcome: &Outcome| matches!(outcome, Outcome::Valid(..));
    content
        .items
        .iter()
        .filter(|item| is_valid(&item.outcome))
        .count()
}

#[test]
fn a_file_of_the_largest_size_is_read() {
    let mut text = MANIFEST.to_owned();
    text.push_str(&"#".repeat(limits::FILE_BYTES - text.len()));
    assert_eq!(valid(&Content::parse("a.yaml", text.as_bytes(), None)), 3);
    text.push('#');
    assert_problem(&text, "a.yaml: is larger than 4096 KiB");
}

#[test]
fn a_file_with_too_many_documents_is_read_up_to_the_limit() {
    let pod = |index| format!("---\nkind: Pod\nmetadata: {{name: p{index}}}\n");
    let text: String = (0..=limits::DOCUMENTS).map(pod).collect();
    assert_problem(&text, "document 10001: holds more than 10000 documents");
    // What is beyond cannot be told, so nothing may be deleted on its account.
    assert!(!Content::parse("a.yaml", text.as_bytes(), None).complete);
}

#[test]
fn bombs_are_disarmed() {
    let fan = "*x, ".repeat(100);
    let bomb = |first: &str| format!("{first}a: &a [{fan}]\nb: [*a, *a, *a, *a]\n");
    assert_problem(&bomb("y: &x [1, 1, 1, 1]\n"), "kind: is missing");
    let wide = format!("y: &x [{}]\n", "1,".repeat(1000));
    assert_problem(
        &bomb(&wide),
        "document 1: the file holds more than 400000 values, aliases expanded",
    );
    // Many documents that stay below the limit each.
    let text = format!("---\ny: &x [{}]\nz: [{fan}]\n", "1,".repeat(900));
    assert_problem(
        &text.repeat(40),
        "values, aliases expanded; the rest of it is not read",
    );
    // Many that make many values and then fail.
    let text = format!("---\ny: &x [{}]\nz: [{fan}]\n]\n", "1,".repeat(900));
    let count = limits::FILE_BYTES / text.len();
    assert_problem(&text.repeat(count), "the rest of it is not read");
    let merge = format!(
        "y: &x {{{}}}\n",
        (0..200)
            .map(|key| format!("k{key}: 1,"))
            .collect::<String>()
    );
    assert_problem(&(merge + &"---\n<<: *x\n".repeat(3)), "unknown anchor");
}

#[test]
fn deep_nesting_is_refused() {
    for opening in ["[", "{a: ", "- "] {
        assert_problem(&opening.repeat(100_000), "a.yaml");
    }
    let stairs: String = (0..200)
        .map(|depth| format!("{}a:\n", " ".repeat(depth)))
        .collect();
    assert_problem(&stairs, "nests more than 48 levels deep");
}

#[test]
fn utf_16_is_named() {
    let bytes: Vec<u8> = [0xff, 0xfe]
        .into_iter()
        .chain(MANIFEST.encode_utf16().flat_map(u16::to_le_bytes))
        .collect();
    assert!(problems(&bytes).contains("the file is UTF-16: save it as UTF-8"));
}

#[test]
fn a_byte_order_mark_and_windows_line_ends_are_no_problem() {
    let text = format!("\u{feff}{}", MANIFEST.replace('\n', "\r\n"));
    assert_eq!(valid(&Content::parse("a.yaml", text.as_bytes(), None)), 3);
}

#[test]
fn lines_are_those_of_the_file() {
    let text = format!("# comment\n{MANIFEST}---\n\n\nkind: Pod\nmetadata: {{}}\n");
    let line = text.lines().count() - 1;
    assert_problem(
        &text,
        &format!("a.yaml:{line}: document 4: apiVersion: is missing"),
    );
}

/// A change to a text: what is cut out, where from, and what is put in its place.
#[derive(Clone, Debug)]
struct Edit {
    at: prop::sample::Index,
    cut: usize,
    put: String,
}

fn edit() -> impl Strategy<Value = Edit> {
    let pieces = prop::sample::select(vec![
        "",
        "\n",
        "---\n",
        "...\n",
        "\t",
        "  ",
        "- ",
        "{",
        "}",
        "[",
        "]",
        ": ",
        "&a ",
        "*a",
        "<<: *a\n",
        "|\n",
        ">-\n",
        "!!binary ",
        "!x ",
        "\"",
        "'",
        "#",
        "? ",
        "%TAG ! x\n",
        "null",
        "~",
        "1e999",
        ".nan",
        "0x1F",
        "\u{0}",
        "\u{feff}",
        "\u{2028}",
        "kind: List\n",
        "items:\n",
        "  podIP: 10.0.0.1\n",
        "    underpass.dev/pid: \"1\"\n",
    ]);
    let put = prop_oneof![pieces.prop_map(str::to_owned), ".{0,4}"];
    (any::<prop::sample::Index>(), 0usize..40, put).prop_map(|(at, cut, put)| Edit { at, cut, put })
}

fn apply(text: &str, edit: &Edit) -> String {
    let characters: Vec<char> = text.chars().collect();
    let at = edit.at.index(characters.len() + 1);
    let end = (at + edit.cut).min(characters.len());
    let (before, after) = (&characters[..at], &characters[end..]);
    before
        .iter()
        .copied()
        .chain(edit.put.chars())
        .chain(after.iter().copied())
        .collect()
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        problems(&bytes);
    }

    #[test]
    fn any_yaml_like_text_is_survived(text in "([a-z&*!|>%@`'\"#,\\[\\]{}:?~ \t\n-]|---\n|: |- ){0,120}") {
        problems(text.as_bytes());
    }

    #[test]
    fn mutated_manifests_are_survived(edits in prop::collection::vec(edit(), 1..6)) {
        let text = edits.iter().fold(MANIFEST.to_owned(), |text, edit| apply(&text, edit));
        problems(text.as_bytes());
    }

    #[test]
    fn what_spoils_one_document_spares_the_others(junk in "[^\u{0}]{0,60}") {
        // A line of its own that begins with `---` would be another document.
        prop_assume!(!junk.contains("---"));
        let pod = |name| format!("---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nstatus: {{podIP: 10.0.0.1}}\n");
        let text = format!("{}---\n{junk}\n{}", pod("a"), pod("b"));
        let content = Content::parse("a.yaml", text.as_bytes(), None);
        prop_assert!(valid(&content) >= 2, "{:?}", content);
    }
}
