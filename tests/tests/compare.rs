//! netd and netfilter side by side, by generated stories: see `netd_tests::compare`.
//!
//! `NETD_COMPARE_SECONDS` says for how long new stories are played, `NETD_COMPARE_SEED` plays the story of one seed.

use std::{
    env,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, bail, ensure};
use netd_tests::{
    compare::{
        Outcome, Twins,
        generate::story,
        known::{self, KNOWN},
        sockets::{self, SocketTwins},
    },
    site::skipped,
};

/// Seeds that are always played. New ones are for whoever looks for differences (`cargo xtask compare`): what a test finds has to be of
/// the change that it tests.
const SEEDS: std::ops::Range<u64> = 1..41;
/// The same, each for a known difference that those do not come to.
const MORE: [u64; 10] = [
    0xa142_b597_4845_2fd8,
    0xa142_b597_4845_2fdd,
    0xa142_b597_4845_2fde,
    0xa142_b597_4845_2fe0,
    0xa142_b597_4845_2ff6,
    0xa142_b597_4845_3002,
    0xa142_b597_4845_300e,
    0xa142_b597_4845_3047,
    0xa142_b597_4845_3049,
    0xa142_b597_4845_3074,
];

/// A number in the environment.
fn number(name: &str) -> Result<Option<u64>> {
    let Some(text) = env::var_os(name) else { return Ok(None) };
    let text = text.to_string_lossy().into_owned();
    let number = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    number.map(Some).with_context(|| format!("{name}={text} is no number"))
}

/// A seed that no run before had.
fn fresh() -> u64 {
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (time.as_nanos() as u64) << 16 | u64::from(std::process::id()) & 0xffff
}

/// Why there is nothing to compare with here, if there is not.
fn missing() -> Option<&'static str> {
    let runs = |program: &str| std::process::Command::new(program).arg("--version").output().is_ok();
    ["iptables-restore", "ip6tables-restore", "conntrack"].into_iter().find(|program| !runs(program))
}

/// Plays the story of a seed, and shows where it goes two ways. Returns the known differences in it.
fn check(twins: &mut Twins, seed: u64) -> Result<Vec<&'static str>> {
    let (family, steps) = story(seed);
    match twins.play(family, &steps).with_context(|| format!("the story of seed {seed:#x}"))? {
        Outcome::Same(known) => Ok(known),
        Outcome::Different(at) => {
            if number("NETD_COMPARE_SEED")?.is_some() {
                println!("The whole story:\n{}", twins.transcript);
            }
            twins.shrink(family, &steps, at)?;
            bail!(
                "netd and netfilter differ in {family:?}; NETD_COMPARE_SEED={seed:#x} plays it again. The story, shortened, and what everybody \
                 got:\n{}",
                twins.transcript
            );
        }
    }
}

#[test]
fn netd_and_netfilter_do_the_same() {
    const TEST: &str = "netd_and_netfilter_do_the_same";
    if skipped(TEST) {
        return;
    }
    if let Some(program) = missing() {
        eprintln!("SKIP {TEST}: there is no {program}");
        return;
    }
    let mut twins = Twins::new().expect("two copies of a small internet");
    let played = play(&mut twins);
    if played.is_err() {
        eprintln!("{TEST}: the daemon's log:\n{}", twins.log());
    }
    let stories = played.unwrap_or_else(|error| panic!("{TEST}: {error:#}"));
    println!("{stories} stories, {} steps; known differences: {:?}", twins.steps, twins.seen);
}

fn play(twins: &mut Twins) -> Result<u64> {
    if let Some(seed) = number("NETD_COMPARE_SEED")? {
        let known = check(twins, seed)?;
        println!("{}known differences in the story of seed {seed:#x}: {known:?}", twins.transcript);
        return Ok(1);
    }
    for seed in SEEDS.chain(MORE) {
        check(twins, seed)?;
    }
    let faults = known::unusual(&twins.seen);
    ensure!(
        faults.is_empty(),
        "of {} steps, known differences: {:?}; {}",
        twins.steps,
        twins.seen,
        faults.join("; ")
    );
    let time = Duration::from_secs(number("NETD_COMPARE_SECONDS")?.unwrap_or(0));
    let (start, first) = (Instant::now(), fresh());
    if !time.is_zero() {
        println!("the first new seed is {first:#x}");
    }
    let mut stories = 0;
    while start.elapsed() < time {
        check(twins, first.wrapping_add(stories))?;
        stories += 1;
    }
    Ok(stories + SEEDS.chain(MORE).count() as u64)
}

/// The same for programs: what they see of their connections and datagrams.
#[test]
fn programs_see_the_same_behind_netd_and_netfilter() {
    const TEST: &str = "programs_see_the_same_behind_netd_and_netfilter";
    if skipped(TEST) {
        return;
    }
    if let Some(program) = missing() {
        eprintln!("SKIP {TEST}: there is no {program}");
        return;
    }
    let mut twins = SocketTwins::new().expect("two copies of a small internet");
    match play_sockets(&mut twins) {
        Ok(stories) => println!("{stories} stories of {} operations", sockets::story(1).1.len()),
        Err(error) => panic!("{TEST}: {error:#}; the daemon's log:\n{}", twins.log()),
    }
}

/// How many of the seeds are played for programs.
const PROGRAMS: usize = 20;

fn play_sockets(twins: &mut SocketTwins) -> Result<u64> {
    let mut check = |seed: u64| {
        let (family, story) = sockets::story(seed);
        let same = twins.play(family, &story).with_context(|| format!("the story of seed {seed:#x}"))?;
        let text = &twins.transcript;
        ensure!(
            same,
            "programs see different things in {family:?}; NETD_COMPARE_SEED={seed:#x} plays it again:\n{text}"
        );
        Ok(())
    };
    if let Some(seed) = number("NETD_COMPARE_SEED")? {
        check(seed)?;
        println!("{}", twins.transcript);
        return Ok(1);
    }
    SEEDS.take(PROGRAMS).try_for_each(&mut check)?;
    // As long as the stories of packets, where that was asked for.
    let time = Duration::from_secs(number("NETD_COMPARE_SECONDS")?.unwrap_or(0));
    let (start, first) = (Instant::now(), fresh());
    let mut stories = 0;
    while start.elapsed() < time {
        check(first.wrapping_add(stories))?;
        stories += 1;
    }
    Ok(stories + PROGRAMS as u64)
}

/// No difference is let pass that the documentation does not give a reason for.
#[test]
fn every_known_difference_is_documented() {
    let text = include_str!("../../docs/nat.md");
    let (_, table) = text.split_once("## What netfilter does otherwise").expect("the heading");
    for known in &KNOWN {
        let line = table.lines().find(|line| line.starts_with(&format!("| {} |", known.heading)));
        let line = line.unwrap_or_else(|| panic!("docs/nat.md does not list: {}", known.heading));
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        assert!(cells.len() == 6 && cells[4].len() > 5, "no reason is given: {line}");
    }
}
