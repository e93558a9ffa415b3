//! Blind mutation: enough to find what is near the corpus, on any compiler.

use mesh_agent::chance::Chance;

/// Bytes that limits and signs are near.
const EDGES: [u8; 10] = [0, 1, b'\t', b'\n', b'\r', b' ', 0x7f, 0x80, 0xfe, 0xff];

/// Returns a neighbour of one of `corpus`, made of it, of others and of `words`.
pub fn mutated(corpus: &[Vec<u8>], words: &[&str], longest: usize, chance: &mut Chance) -> Vec<u8> {
    let mut bytes = pick(corpus, chance).cloned().unwrap_or_default();
    // Mostly a few changes at once: more, and nothing of the shape is left.
    let most = 1 << below(chance, 4);
    for _ in 0..=below(chance, most) {
        change(&mut bytes, corpus, words, chance);
    }
    bytes.truncate(longest);
    bytes
}

fn change(bytes: &mut Vec<u8>, corpus: &[Vec<u8>], words: &[&str], chance: &mut Chance) {
    let at = below(chance, bytes.len() + 1);
    let end = at + below(chance, (bytes.len() - at + 1).min(32));
    match below(chance, 10) {
        0 => drop(bytes.splice(at..at, [random(chance)])),
        1 => drop(bytes.splice(at..at, [EDGES[below(chance, EDGES.len())]])),
        2 if at < bytes.len() => bytes[at] ^= 1 << below(chance, 8),
        3 if at < bytes.len() => bytes[at] = random(chance),
        4 => drop(bytes.drain(at..end)),
        5 => bytes.truncate(at),
        6 => {
            let part = bytes[at..end].to_vec();
            let to = below(chance, bytes.len() + 1);
            drop(bytes.splice(to..to, part));
        }
        7 => {
            let other = pick(corpus, chance).cloned().unwrap_or_default();
            let from = below(chance, other.len() + 1);
            drop(bytes.splice(at.., other[from..].iter().copied()));
        }
        word if !words.is_empty() => {
            let text = words[below(chance, words.len())].as_bytes();
            let end = if word == 8 { at } else { end };
            drop(bytes.splice(at..end, text.iter().copied()));
        }
        _ => {}
    }
}

fn pick<'c>(corpus: &'c [Vec<u8>], chance: &mut Chance) -> Option<&'c Vec<u8>> {
    corpus.get(below(chance, corpus.len().max(1)))
}

fn random(chance: &mut Chance) -> u8 {
    chance.bits().to_le_bytes()[0]
}

fn below(chance: &mut Chance, limit: usize) -> usize {
    let limit = u32::try_from(limit).unwrap_or(u32::MAX);
    usize::try_from(chance.below(limit)).unwrap_or(0)
}
