//! What is written is read, and what is none is refused as the standard says.

use super::*;

fn at(kind: u8, flags: u8, stream: u32, length: usize) -> Head {
    Head {
        length,
        kind,
        flags,
        stream,
    }
}

#[test]
fn heads_come_back() {
    let mut out = Vec::new();
    data_head(&mut out, 0x1234_5678, 0x1_2345, true);
    let read = Head::read(&out).unwrap();
    assert_eq!(
        read,
        at(kind::DATA, flag::END_STREAM, 0x1234_5678, 0x1_2345)
    );
    assert_eq!(Head::read(&out[..8]), None);
    // The reserved bit is nobody's.
    out[5] |= 0x80;
    assert_eq!(Head::read(&out).unwrap().stream, 0x1234_5678);
}

#[test]
fn long_blocks_are_continued() {
    for length in [0, 5, MAX_PAYLOAD, MAX_PAYLOAD + 1, 3 * MAX_PAYLOAD, 40_000] {
        let mut out = b"before".to_vec();
        let begin = begin_headers(&mut out, 7, true);
        let block: Vec<u8> = (0..length).map(|it| it.to_le_bytes()[0]).collect();
        out.extend_from_slice(&block);
        end_headers(&mut out, begin, 7);
        let (mut rest, mut got, mut expected) = (&out[6..], Vec::new(), kind::HEADERS);
        loop {
            let head = Head::read(rest).unwrap();
            assert_eq!((head.kind, head.stream), (expected, 7));
            assert_eq!(head.has(flag::END_STREAM), expected == kind::HEADERS);
            got.extend_from_slice(&rest[HEAD..HEAD + head.length]);
            rest = &rest[HEAD + head.length..];
            if head.has(flag::END_HEADERS) {
                break;
            }
            expected = kind::CONTINUATION;
        }
        assert!(rest.is_empty() && got == block, "{length}");
    }
}

#[test]
fn padding_is_less_than_the_payload() {
    let padded = at(kind::DATA, flag::PADDED, 1, 4);
    assert_eq!(unpadded(padded, &[2, b'x', 0, 0]), Ok(1..2));
    assert_eq!(unpadded(padded, &[3, 0, 0, 0]), Ok(1..1));
    let wrong = Fault::Connection(Code::PROTOCOL_ERROR);
    assert_eq!(unpadded(padded, &[4, 0, 0, 0]), Err(wrong));
    let size = Fault::Connection(Code::FRAME_SIZE_ERROR);
    assert_eq!(unpadded(padded, &[]), Err(size));
    assert_eq!(unpadded(at(kind::DATA, 0, 0, 0), &[]), Err(wrong));
    let both = at(kind::HEADERS, flag::PADDED | flag::PRIORITY, 1, 8);
    assert_eq!(headers(both, &[1, 0, 0, 0, 0, 9, b'x', 0]), Ok(6..7));
    assert_eq!(headers(both, &[3, 0, 0, 0, 0, 0, 0, 0]), Err(size));
}

#[test]
fn settings_are_checked() {
    let read = |id: u16, value: u32| {
        let mut out = Vec::new();
        settings(&mut out, &[(id, value)]);
        Settings::read(Head::read(&out).unwrap(), &out[HEAD..])
    };
    let wrong = |code| Err(Fault::Connection(code));
    assert_eq!(read(2, 2), wrong(Code::PROTOCOL_ERROR));
    assert_eq!(read(8, 2), wrong(Code::PROTOCOL_ERROR));
    assert_eq!(read(4, 1 << 31), wrong(Code::FLOW_CONTROL_ERROR));
    assert_eq!(read(5, 16_383), wrong(Code::PROTOCOL_ERROR));
    assert_eq!(read(5, 1 << 24), wrong(Code::PROTOCOL_ERROR));
    assert_eq!(read(5, 1 << 20).unwrap().unwrap().payload, Some(1 << 20));
    assert_eq!(read(99, 7).unwrap(), Some(Settings::default()));
    let of = |head, payload| Settings::read(head, payload);
    assert_eq!(of(at(4, 0, 1, 0), &[]), wrong(Code::PROTOCOL_ERROR));
    assert_eq!(of(at(4, 0, 0, 5), &[0; 5]), wrong(Code::FRAME_SIZE_ERROR));
    assert_eq!(of(at(4, 1, 0, 6), &[0; 6]), wrong(Code::FRAME_SIZE_ERROR));
    assert_eq!(of(at(4, 1, 0, 0), &[]), Ok(None));
}

#[test]
fn small_frames_have_one_size_each() {
    let size = Fault::Connection(Code::FRAME_SIZE_ERROR);
    let wrong = Fault::Connection(Code::PROTOCOL_ERROR);
    assert_eq!(rst_stream(at(3, 0, 1, 3), &[0; 3]), Err(size));
    assert_eq!(rst_stream(at(3, 0, 0, 4), &[0; 4]), Err(wrong));
    assert_eq!(check_ping(at(6, 0, 0, 7), &[0; 7]), Err(size));
    assert_eq!(check_ping(at(6, 0, 1, 8), &[0; 8]), Err(wrong));
    assert_eq!(goaway(at(7, 0, 0, 7), &[0; 7]), Err(size));
    assert_eq!(goaway(at(7, 0, 1, 8), &[0; 8]), Err(wrong));
    let last = goaway(at(7, 0, 0, 9), &[0x80, 0, 0, 5, 0, 0, 0, 2, b'x']);
    assert_eq!(last, Ok((5, Code::INTERNAL_ERROR)));
    assert_eq!(window_update(at(8, 0, 1, 5), &[0; 5]), Err(size));
    assert_eq!(window_update(at(8, 0, 0, 4), &[0; 4]), Err(wrong));
    let stream = Fault::Stream(1, Code::PROTOCOL_ERROR);
    assert_eq!(window_update(at(8, 0, 1, 4), &[0x80, 0, 0, 0]), Err(stream));
    assert_eq!(window_update(at(8, 0, 1, 4), &[0x80, 0, 0, 7]), Ok(7));
    let stream = Fault::Stream(1, Code::FRAME_SIZE_ERROR);
    assert_eq!(check_priority(at(2, 0, 1, 4)), Err(stream));
    assert_eq!(check_priority(at(2, 0, 0, 5)), Err(wrong));
}
