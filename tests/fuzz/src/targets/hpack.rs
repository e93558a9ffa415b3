//! Lists of fields as HTTP/2 compresses them: what is understood comes back the same by our own compressor, whatever tables have
//! seen before.

use mesh_agent::proxy::h2::Kind;
use mesh_agent::proxy::h2::hpack::{Decoder, Encoder, Size};

use crate::Target;

/// Blocks, each behind a byte with its length.
pub const TARGET: Target = Target {
    name: "hpack",
    run,
    words: &[
        "\u{1}\u{2}",
        "@\u{1}a\u{1}b",
        "\0\u{1}a\u{1}b",
        "\u{10}\u{1}a\u{1}b",
        ":path",
        "cookie",
        "content-length",
        "A",
        "?",
        " ",
    ],
    longest: 2048,
};

/// Bytes of a list; some inputs are longer.
const LIMIT: usize = 1000;

type Lines = Vec<(String, Vec<u8>, bool)>;

fn run(data: &[u8]) {
    let mut decoder = Decoder::new(LIMIT);
    let (mut encoder, mut other) = (Encoder::default(), Decoder::new(LIMIT));
    let mut rest = data;
    while let Some((length, more)) = rest.split_first() {
        let (block, behind) = more.split_at(more.len().min(usize::from(*length)));
        rest = behind;
        let mut lines = Lines::new();
        let mut size = 0;
        let decoded = decoder.decode(block, |line| {
            size += line.name.len() + line.value.len() + 32;
            if line.kind != Kind::Malformed {
                assert!(!line.name.is_empty(), "a name is none");
                let shouts = line.name.bytes().any(|byte| byte.is_ascii_uppercase());
                assert!(!shouts, "upper case in {:?}", line.name);
                let broken = line.value.iter().any(|byte| b"\r\n\0".contains(byte));
                assert!(!broken, "a line break in {:?}", line.value);
                lines.push((line.name.to_owned(), line.value.to_vec(), line.secret));
            }
        });
        assert!(size <= LIMIT, "{size} bytes were handed on");
        let Ok(size) = decoded else {
            return;
        };
        // What is left out makes room.
        if size == Size::Whole {
            encoder.set_limit(usize::from(*length) * 32);
            assert_eq!(lines, again(&mut encoder, &mut other, &lines));
        }
    }
}

fn again(encoder: &mut Encoder, decoder: &mut Decoder, lines: &Lines) -> Lines {
    let mut out = Vec::new();
    encoder.begin(&mut out);
    for (name, value, secret) in lines {
        encoder.field(&mut out, name, value, *secret);
    }
    let mut back = Lines::new();
    let decoded = decoder.decode(&out, |line| {
        // Some are secrets by their names.
        let secret = line.secret && lines[back.len()].2;
        back.push((line.name.to_owned(), line.value.to_vec(), secret));
    });
    assert_eq!(decoded, Ok(Size::Whole), "our own block is refused");
    back
}
