//! Reads what `cargo test` prints, and adds it up.
//!
//! A test that finds at run time that the machine cannot run it prints `SKIP <test>: <reason>` and returns: the harness
//! counts it as passed, so it is taken off here. The harness shows the output of passed tests only with
//! `--show-output`, and then all of it; so that option is given, and of that output only the skips are let through.

/// The results of a stage, or of all.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    passed: usize,
    failed: usize,
    /// Not run by the harness.
    ignored: usize,
    /// Which those are, and why.
    ignored_lines: Vec<String>,
    /// The skips, one line a test.
    skips: Vec<String>,
    /// The names of the failed tests.
    failures: Vec<String>,
}

impl Totals {
    /// Adds a failure that no test reported.
    pub(crate) fn fail(&mut self, what: impl Into<String>) {
        self.failed += 1;
        self.failures.push(what.into());
    }

    /// Adds another stage's results.
    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
        self.ignored_lines.extend(other.ignored_lines);
        self.skips.extend(other.skips);
        self.failures.extend(other.failures);
    }

    /// Whether anything failed.
    pub(crate) fn any_failed(&self) -> bool {
        self.failed > 0
    }

    /// Whether any test ran at all.
    pub(crate) fn any_ran(&self) -> bool {
        self.passed + self.failed + self.ignored > 0
    }

    /// What was skipped, and why.
    pub(crate) fn skipped(&self) -> impl Iterator<Item = &str> {
        self.skips.iter().chain(&self.ignored_lines).map(String::as_str)
    }

    /// The names of what failed.
    pub(crate) fn failures(&self) -> impl Iterator<Item = &str> {
        self.failures.iter().map(String::as_str)
    }

    /// The same in few characters: `N`, `N, N failed`, `N, N skipped`.
    pub(crate) fn short(&self) -> String {
        let passed = self.passed.saturating_sub(self.skips.len());
        let mut text = passed.to_string();
        for (count, what) in [(self.failed, "failed"), (self.skips.len() + self.ignored, "skipped")] {
            if count > 0 {
                text += &format!(", {count} {what}");
            }
        }
        text
    }

    /// `N passed, N failed, N skipped`.
    pub(crate) fn line(&self) -> String {
        let passed = self.passed.saturating_sub(self.skips.len());
        format!("{passed} passed, {} failed, {} skipped", self.failed, self.skips.len() + self.ignored)
    }
}

/// The part of a test program's output that a line stands in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Section {
    /// One line a test.
    Tests,
    /// The output of the tests that passed.
    Successes,
    /// The output of the tests that failed, and then their names.
    Failures,
}

/// Reads the output of one `cargo test`, line by line.
pub(crate) struct Reader {
    totals: Totals,
    section: Section,
    /// The test program that has started and not yet told its result.
    running: Option<String>,
    /// How many skips and failures are of earlier test programs.
    earlier: (usize, usize),
    /// Whether the output of passed tests is let through.
    verbose: bool,
}

impl Reader {
    /// `verbose`: let the output of passed tests through.
    pub(crate) fn new(verbose: bool) -> Self {
        Self { totals: Totals::default(), section: Section::Tests, running: None, earlier: (0, 0), verbose }
    }

    /// Takes a line; returns whether it is to be shown.
    pub(crate) fn line(&mut self, line: &str) -> bool {
        let line = plain(line);
        let line = line.trim_end();
        if let Some(program) = header(line) {
            self.end_program();
            self.running = Some(program.to_owned());
        } else if let Some((passed, failed, ignored)) = result(line) {
            self.totals.passed += passed;
            self.totals.failed += failed;
            self.totals.ignored += ignored;
            self.section = Section::Tests;
            self.running = None;
        } else if line == "successes:" {
            self.section = Section::Successes;
        } else if line == "failures:" {
            self.section = Section::Failures;
            // The names come after the last such line.
            self.totals.failures.truncate(self.earlier.1);
        } else if let Some(skip) = skip(line) {
            // What a failed test printed before it failed is no skip.
            if self.section != Section::Failures {
                self.skip(skip);
            }
            return true;
        } else if self.section == Section::Tests
            && let Some(ignored) = ignored(line)
        {
            self.totals.ignored_lines.push(ignored);
        } else if self.section == Section::Failures
            && let Some(name) = line.strip_prefix("    ")
        {
            self.totals.failures.push(name.to_owned());
        }
        self.section != Section::Successes || self.verbose
    }

    /// Keeps one skip a test.
    fn skip(&mut self, line: &str) {
        let test = |line: &str| {
            line.split(':').take_while(|part| !part.starts_with(' ')).map(str::to_owned).collect::<Vec<_>>()
        };
        if self.totals.skips[self.earlier.0..].iter().all(|seen| test(seen) != test(line)) {
            self.totals.skips.push(line.to_owned());
        }
    }

    /// A program that ends without a result has crashed.
    fn end_program(&mut self) {
        if let Some(program) = self.running.take() {
            self.totals.fail(format!("{program} ended without a result"));
        }
        self.section = Section::Tests;
        self.earlier = (self.totals.skips.len(), self.totals.failures.len());
    }

    /// The results, given whether cargo itself succeeded.
    pub(crate) fn finish(mut self, success: bool) -> Totals {
        self.end_program();
        if !success && !self.totals.any_failed() {
            self.totals.fail("cargo test");
        }
        self.totals
    }
}

/// What came of the tests of each program in the output of `cargo test`: the program's name, with what passed, failed and was skipped.
pub(crate) fn by_program<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<(String, Totals)> {
    let mut found: Vec<(String, Totals)> = Vec::new();
    let mut current: Option<(String, Reader)> = None;
    let mut end = |ended: Option<(String, Reader)>| {
        found.extend(ended.map(|(name, reader)| (name, reader.finish(true))));
    };
    for line in lines {
        let text = plain(line);
        if text.trim_end() == "== summary" {
            break;
        }
        if let Some(program) = header(text.trim_end()) {
            end(current.take());
            current = Some((short(program), Reader::new(false)));
        }
        if let Some((_, reader)) = &mut current {
            reader.line(line);
        }
    }
    end(current);
    found.retain(|(_, totals)| totals.any_ran() || totals.any_failed());
    found
}

/// The name of a test program: `net` of `tests/net.rs (target/debug/deps/net-2)`, `netd` of `unittests src/lib.rs (….../netd-1)`.
fn short(program: &str) -> String {
    let path = program.rsplit_once('(').map_or(program, |(_, path)| path.trim_end_matches(')'));
    let file = path.rsplit('/').next().unwrap_or(path);
    file.rsplit_once('-').map_or(file, |(name, _)| name).to_owned()
}

/// Cargo's line before a test program starts; returns the program.
fn header(line: &str) -> Option<&str> {
    line.strip_prefix("     Running ").or_else(|| line.strip_prefix("   Doc-tests "))
}

/// Reads `test result: ok. 3 passed; 0 failed; 1 ignored; …`.
fn result(line: &str) -> Option<(usize, usize, usize)> {
    let (_outcome, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let count =
        |what| counts.split("; ").find_map(|part| part.strip_suffix(what)?.trim_end().parse::<usize>().ok());
    Some((count("passed")?, count("failed")?, count("ignored")?))
}

/// A skip, on a line of its own or after the harness's `test NAME ... `.
fn skip(line: &str) -> Option<&str> {
    let line = match line.strip_prefix("test ") {
        Some(rest) => rest.split_once(" ... ").map_or("", |(_name, output)| output),
        None => line,
    };
    line.starts_with("SKIP ").then_some(line)
}

/// What `test NAME ... ignored, WHY` says.
fn ignored(line: &str) -> Option<String> {
    let (name, outcome) = line.strip_prefix("test ")?.split_once(" ... ")?;
    let why = outcome.strip_prefix("ignored")?;
    Some(format!("{name} is ignored{}", why.replacen(", ", ": ", 1)))
}

/// `line` without its colours.
fn plain(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut rest = line;
    while let Some((before, after)) = rest.split_once("\x1b[") {
        plain.push_str(before);
        rest = after.find(|c: char| c.is_ascii_alphabetic()).map_or("", |end| &after[end + 1..]);
    }
    plain.push_str(rest);
    // The harness on some terminals.
    plain.replace("\x1b(B", "")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two programs: one passes (with a skip and an ignored test), one has a failure.
    const OUTPUT: &str = "\
   Compiling netd v0.1.0
    Finished `test` profile [unoptimized] target(s) in 1.20s
     Running unittests src/lib.rs (target/debug/deps/netd-1)

running 4 tests
test a ... ok
test ipam::b ... ok
test c ... ignored, slow
test d ... ok

successes:

---- a stdout ----
hello from a

---- ipam::b stdout ----
SKIP ipam::b: needs netkit
SKIP ipam::b: again


successes:
    a
    ipam::b
    d

test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s

     Running tests/net.rs (target/debug/deps/net-2)

running 2 tests
test x ... FAILED
test y ... ok

successes:

successes:
    y

failures:

---- x stdout ----
SKIP x: IPv6 part
thread 'x' panicked at src/main.rs:1:
    an indented line

failures:
    x

test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s

error: 1 target failed:
    `-p netd --test net`
";

    fn read(output: &str, success: bool) -> (Totals, Vec<&str>) {
        let mut reader = Reader::new(false);
        let shown = output.lines().filter(|line| reader.line(line)).collect();
        (reader.finish(success), shown)
    }

    #[test]
    fn results_of_all_programs_are_added_up() {
        let (totals, _) = read(OUTPUT, false);
        assert_eq!(totals.line(), "3 passed, 1 failed, 2 skipped");
        assert!(totals.failures().eq(["x"]));
        assert!(totals.skipped().eq(["SKIP ipam::b: needs netkit", "c is ignored: slow"]));
    }

    #[test]
    fn of_passed_tests_only_the_skips_are_shown() {
        let (_, shown) = read(OUTPUT, false);
        assert!(shown.contains(&"SKIP ipam::b: needs netkit"));
        assert!(!shown.contains(&"hello from a"));
        assert!(shown.contains(&"    an indented line"));
        assert!(shown.contains(&"test a ... ok"));
        let mut verbose = Reader::new(true);
        assert_eq!(OUTPUT.lines().filter(|line| verbose.line(line)).count(), OUTPUT.lines().count());
    }

    #[test]
    fn skips_count_once_a_test_in_each_program_and_without_capture_too() {
        let output = "     Running one (x)\ntest a ... SKIP a: no\nok\nSKIP m::b: no\nSKIP m::c: no\n\
                      test result: ok. 4 passed; 0 failed; 0 ignored; 0 measured\n\
                      \x20    Running two (y)\nSKIP a: no\ntest result: ok. 1 passed; 0 failed; 0 ignored; 0 measured\n";
        assert_eq!(read(output, true).0.line(), "1 passed, 0 failed, 4 skipped");
    }

    #[test]
    fn a_program_that_crashes_is_a_failure() {
        let output = "     Running one (x)\nrunning 2 tests\ntest a ... ok\n\
                      \x20    Running two (y)\ntest result: ok. 1 passed; 0 failed; 0 ignored; 0 measured\n";
        let (totals, _) = read(output, false);
        assert_eq!(totals.line(), "1 passed, 1 failed, 0 skipped");
        assert!(totals.failures().eq(["one (x) ended without a result"]));
    }

    #[test]
    fn a_failure_of_cargo_alone_is_a_failure() {
        assert_eq!(read("error: could not compile\n", false).0.line(), "0 passed, 1 failed, 0 skipped");
        assert!(!read("", true).0.any_ran());
    }

    #[test]
    fn colours_do_not_matter() {
        let line = "test result: \x1b[31mFAILED\x1b(B\x1b[m. 1 passed; 2 failed; 0 ignored; 0 measured";
        assert_eq!(result(&plain(line)), Some((1, 2, 0)));
        assert_eq!(
            header(&plain("\x1b[1m\x1b[92m     Running\x1b[0m src/lib.rs (x)")),
            Some("src/lib.rs (x)")
        );
    }

    #[test]
    fn doc_tests_are_programs_too() {
        assert_eq!(header("   Doc-tests netd_common"), Some("netd_common"));
        assert_eq!(header("running 3 tests"), None);
    }
}
