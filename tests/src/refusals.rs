//! What a refusal looks like: one line, a status that is not zero, and nothing changed.

use std::{
    path::Path,
    process::{Command, Output},
};

use anyhow::{Context, Result, ensure};

use crate::{Site, snapshot::Snapshot};

/// Checks that it failed with that status and one line on standard error, which begins with `netd: ` and has all of these
/// words in it.
///
/// # Errors
/// It did not.
pub fn refused(what: &str, output: &Output, code: i32, words: &[&str]) -> Result<()> {
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(code), "{what}: {}: {said}", output.status);
    ensure!(said.starts_with("netd: ") && said.lines().count() == 1, "{what}: not one line: {said}");
    for word in words {
        ensure!(said.contains(word), "{what}: {word:?} is not named: {said}");
    }
    ensure!(output.stdout.is_empty(), "{what}: printed {}", String::from_utf8_lossy(&output.stdout));
    Ok(())
}

/// Checks each row of a table.
///
/// # Errors
/// All that failed.
pub fn each<T>(table: &[T], mut check: impl FnMut(&T) -> Result<()>) -> Result<()> {
    let failures: Vec<String> =
        table.iter().filter_map(|row| check(row).err()).map(|error| format!("{error:#}")).collect();
    ensure!(failures.is_empty(), "{} of {}:\n{}", failures.len(), table.len(), failures.join("\n"));
    Ok(())
}

/// Checks that all on the host is as it was.
///
/// # Errors
/// Something is not.
pub fn unchanged(what: &str, site: &Site, before: &Snapshot) -> Result<()> {
    let after = Snapshot::of(&site.host)?;
    ensure!(after == *before, "{what}: something was changed: {}", before.difference(&after));
    Ok(())
}

/// `netd run` on the site's host, not longer than it may take to fail. `before` are words in front of the command.
///
/// # Errors
/// It cannot be run.
pub fn run(site: &Site, before: &[&str], netd: &Path) -> Result<Output> {
    let words: Vec<&str> = ["timeout", "20"].iter().chain(before).copied().collect();
    let mut command: Command = site.host.namespace.command(words[0])?;
    command.args(&words[1..]).arg(netd).args(site.host.run_arguments());
    command.output().context("cannot run netd")
}
