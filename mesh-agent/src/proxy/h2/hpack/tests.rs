//! The standard's examples, the other end of our own, and the `h2` crate's.

use proptest::prelude::*;

use super::*;

type Lines = Vec<(String, String)>;

fn lines(fields: &[(&str, &str)]) -> Lines {
    fields
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<Lines, Error> {
    let mut lines = Vec::new();
    decoder.decode(block, |line| {
        let value = String::from_utf8_lossy(line.value).into_owned();
        lines.push((line.name.to_owned(), value));
    })?;
    Ok(lines)
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .bytes()
        .filter(|byte| !byte.is_ascii_whitespace())
        .collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn encode(encoder: &mut Encoder, lines: &Lines) -> Vec<u8> {
    let mut out = Vec::new();
    encoder.begin(&mut out);
    for (name, value) in lines {
        encoder.field(&mut out, name, value.as_bytes(), false);
    }
    out
}

#[test]
fn single_representations() {
    // Appendix C.2.
    for (block, name, value) in [
        (
            "400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572",
            "custom-key",
            "custom-header",
        ),
        (
            "040c 2f73 616d 706c 652f 7061 7468",
            ":path",
            "/sample/path",
        ),
        (
            "1008 7061 7373 776f 7264 0673 6563 7265 74",
            "password",
            "secret",
        ),
        ("82", ":method", "GET"),
    ] {
        let mut decoder = Decoder::new(1000);
        let mut seen = None;
        let each = |line: Line<'_>| seen = Some(line.secret);
        assert_eq!(decoder.decode(&hex(block), each), Ok(Size::Whole));
        assert_eq!(seen, Some(name == "password"));
        let got = decode(&mut Decoder::new(1000), &hex(block));
        assert_eq!(got, Ok(lines(&[(name, value)])));
    }
}

#[test]
fn requests_of_the_standard() {
    // Appendices C.3 and C.4: the same, without and with Huffman's code.
    let plain = [
        "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "8286 84be 5808 6e6f 2d63 6163 6865",
        "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
    ];
    let coded = [
        "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
        "8286 84be 5886 a8eb 1064 9cbf",
        "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
    ];
    let host = (":authority", "www.example.com");
    let expected = [
        lines(&[
            (":method", "GET"),
            (":scheme", "http"),
            (":path", "/"),
            host,
        ]),
        lines(&[
            (":method", "GET"),
            (":scheme", "http"),
            (":path", "/"),
            host,
            ("cache-control", "no-cache"),
        ]),
        lines(&[
            (":method", "GET"),
            (":scheme", "https"),
            (":path", "/index.html"),
            host,
            ("custom-key", "custom-value"),
        ]),
    ];
    for blocks in [plain, coded] {
        let mut decoder = Decoder::new(1000);
        for (block, expected) in blocks.iter().zip(&expected) {
            assert_eq!(decode(&mut decoder, &hex(block)).as_ref(), Ok(expected));
        }
    }
}

#[test]
fn what_the_table_forgets() {
    // Appendix C.6, with a table of 256 bytes.
    let blocks = [
        "3fe1 01 4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
        "4883 640e ffc1 c0bf",
    ];
    let mut decoder = Decoder::new(1000);
    let first = decode(&mut decoder, &hex(blocks[0])).unwrap();
    assert_eq!(first[0], (":status".to_owned(), "302".to_owned()));
    assert_eq!(first[3].1, "https://www.example.com");
    let second = decode(&mut decoder, &hex(blocks[1])).unwrap();
    assert_eq!(second[0].1, "307");
    assert_eq!(second[1..], first[1..]);
    // The oldest entry is gone.
    assert_eq!(decode(&mut decoder, &[0x80 | 66]), Err(Error::Malformed));
}

#[test]
fn what_is_no_block_is_refused() {
    for (block, why) in [
        (&[0x80][..], "entry 0"),
        (&[0xbe], "an entry that is not there"),
        (&[0x40], "a name that is not there"),
        (&[0x40, 0x05, b'a'], "a name that is cut off"),
        (&[0x7e, 0x01], "the name of no entry"),
        (&[0x3f, 0xe2, 0x1f], "a table larger than allowed"),
        (&[0x82, 0x20], "a table resized behind a field"),
        (&[0x00, 0x81, 0xfe, 0x00], "padding that is none"),
        (&[0xff, 0x80, 0x80, 0x80, 0x80, 0x80], "an endless number"),
    ] {
        let got = decode(&mut Decoder::new(1000), block);
        assert_eq!(got, Err(Error::Malformed), "{why}");
    }
    // What is resized may be so twice, and down to nothing.
    let got = decode(&mut Decoder::new(1000), &[0x20, 0x3f, 0xe1, 0x1f, 0x82]);
    assert_eq!(got, Ok(lines(&[(":method", "GET")])));
}

#[test]
fn names_and_values_are_looked_over_once() {
    let mut out = Vec::new();
    for (name, value) in [("x", "\0"), ("y", "fine"), ("BAD", "1"), (":new", "1")] {
        out.push(0x40);
        for text in [name, value] {
            integer::write(&mut out, 0, 7, text.len());
            out.extend_from_slice(text.as_bytes());
        }
    }
    // Once more, by their numbers: the last one first.
    out.extend([0xbe, 0xbf, 0xc0, 0xc1]);
    let mut kinds = Vec::new();
    let mut decoder = Decoder::new(1000);
    decoder.decode(&out, |line| kinds.push(line.kind)).unwrap();
    let (bad, fine) = (Kind::Malformed, Kind::Plain);
    assert_eq!(kinds, [bad, fine, bad, bad, bad, bad, fine, bad]);
}

#[test]
fn size_is_bounded_and_the_table_kept() {
    let mut decoder = Decoder::new(100);
    let mut out = Vec::new();
    let long = "v".repeat(100);
    let field = [("kept".to_owned(), long.clone())];
    for (name, value) in &field {
        out.push(0x40);
        integer::write(&mut out, 0, 7, name.len());
        out.extend_from_slice(name.as_bytes());
        integer::write(&mut out, 0, 7, value.len());
        out.extend_from_slice(value.as_bytes());
    }
    let mut seen = 0;
    assert_eq!(decoder.decode(&out, |_| seen += 1), Ok(Size::TooLarge));
    assert_eq!(seen, 0);
    assert_eq!(decoder.decode(&[0xbe], |_| ()), Ok(Size::TooLarge));
    assert_eq!(
        decoder.decode(&[0xbe, 0xbe, 0xbe, 0xbe], |_| ()),
        Err(Error::TooMuch)
    );
}

#[test]
fn what_repeats_becomes_small_and_secrets_stay() {
    let mut encoder = Encoder::default();
    let mut decoder = Decoder::new(10_000);
    let fields = lines(&[
        (":authority", "shop.example:8080"),
        ("user-agent", "something/1.0"),
        ("authorization", "Bearer abc"),
        ("cookie", "id=1"),
    ]);
    let mut sizes = Vec::new();
    for _ in 0..3 {
        let block = encode(&mut encoder, &fields);
        assert_eq!(decode(&mut decoder, &block).as_ref(), Ok(&fields));
        sizes.push(block.len());
    }
    // The secrets: number of the name in two bytes, length, text.
    assert_eq!(sizes[2], 2 + (3 + 10) + (3 + 4));
    assert!(sizes[1] < sizes[0]);
    let mut secret = Vec::new();
    let mut out = Vec::new();
    for _ in 0..3 {
        encoder.field(&mut out, "X-Key", b"hidden", true);
    }
    let each = |line: Line<'_>| secret.push((line.name.to_owned(), line.secret));
    decoder.decode(&out, each).unwrap();
    assert_eq!(secret, vec![("x-key".to_owned(), true); 3]);
}

#[test]
fn a_smaller_table_is_announced() {
    let mut encoder = Encoder::default();
    let mut decoder = Decoder::new(10_000);
    let fields = lines(&[("a", "1"), ("b", "2")]);
    for limit in [4096, 0, 100, 1 << 20, 50] {
        encoder.set_limit(limit);
        for _ in 0..3 {
            let block = encode(&mut encoder, &fields);
            assert_eq!(decode(&mut decoder, &block).as_ref(), Ok(&fields));
        }
    }
    // Down and up again between two blocks: both are said (section 4.2).
    encoder.set_limit(0);
    encoder.set_limit(4096);
    let mut out = Vec::new();
    encoder.begin(&mut out);
    assert_eq!(out, [0x20, 0x3f, 0xe1, 0x1f]);
}

fn any_lines() -> impl Strategy<Value = Lines> {
    // Few names and values, so that they repeat, and some that do not.
    let name = prop_oneof!["[a-d]{1,2}", "x-[a-z]{1,20}", Just("cookie".to_owned())];
    let value = prop_oneof!["[0-3]", "[!-~]{0,40}", "[a-z]{200}"];
    proptest::collection::vec((name, value), 0..20)
}

proptest! {
    // Each is long.
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_is_encoded_is_decoded(lists in proptest::collection::vec((any_lines(), 0_usize..6000), 1..20)) {
        let mut encoder = Encoder::default();
        let mut decoder = Decoder::new(1 << 20);
        for (lines, limit) in lists {
            if limit < 5000 {
                encoder.set_limit(limit);
            }
            let block = encode(&mut encoder, &lines);
            prop_assert_eq!(decode(&mut decoder, &block), Ok(lines));
        }
    }

    #[test]
    fn anything_may_come(blocks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60), 1..5)) {
        let mut decoder = Decoder::new(1000);
        for block in blocks {
            if decode(&mut decoder, &block).is_err() {
                break;
            }
        }
    }
}
