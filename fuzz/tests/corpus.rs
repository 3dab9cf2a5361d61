//! Stories that reach something of their own, and those that once broke something.

use std::{fs, path::Path};

/// Rounds of all stories on many threads: some seconds on two CPUs.
const ROUNDS: usize = 10;
/// Threads of such a round.
const THREADS: usize = 8;

/// All stories, with their files' names.
fn stories() -> Vec<(String, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let mut all: Vec<_> = fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.display().to_string(), fs::read(&path).unwrap()))
        .collect();
    all.sort();
    assert!(!all.is_empty(), "no stories in {}", directory.display());
    all
}

#[test]
fn the_corpus_holds() {
    for (name, story) in stories() {
        println!("{name}");
        netd_fuzz::play(&story);
    }
}

#[test]
fn the_corpus_holds_on_many_threads() {
    let stories: Vec<_> = stories().into_iter().map(|(_, story)| story).collect();
    for _ in 0..ROUNDS {
        netd_fuzz::play_together(&stories, THREADS);
    }
}
