//! One target for a moment: first all that its corpus keeps, then neighbours of that.

use std::fs;
use std::panic::catch_unwind;
use std::time::{Duration, Instant};

use fuzz::mutate::mutated;
use fuzz::{Target, corpus};
use mesh_agent::chance::Chance;

/// For each target; all of them run side by side.
const SECONDS: u64 = 3;

/// What one input may take: many times what any does in a debug build on a busy machine.
const SLOW: Duration = Duration::from_secs(20);

pub(crate) fn bounded(name: &str) {
    let target = fuzz::target(name).unwrap();
    let kept = read(&target);
    assert!(!kept.is_empty(), "the corpus of `{name}` is empty");
    for input in &kept {
        one(&target, input);
    }
    let seconds = std::env::var("FUZZ_SECONDS").map_or(SECONDS, |text| text.parse().unwrap());
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut chance = Chance::random();
    let mut tried = 0_u64;
    while Instant::now() < end {
        let input = mutated(&kept, target.words, target.longest, &mut chance);
        one(&target, &input);
        tried += 1;
    }
    println!("`{name}`: {} kept and {tried} new inputs", kept.len());
    assert!(tried > 0, "there was no time for a single new input");
}

fn one(target: &Target, input: &[u8]) {
    let began = Instant::now();
    let run = target.run;
    let input = input.to_vec();
    let result = catch_unwind(|| run(&input));
    let shown = input.escape_ascii();
    assert!(result.is_ok(), "`{}` fails with b\"{shown}\"", target.name);
    let took = began.elapsed();
    assert!(
        took < SLOW,
        "`{}` takes {took:?} for b\"{shown}\"",
        target.name
    );
}

fn read(target: &Target) -> Vec<Vec<u8>> {
    let directory = corpus(target);
    let mut paths: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|it| it.unwrap().path())
        .collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}
