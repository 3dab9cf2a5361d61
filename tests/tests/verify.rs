//! `netd verify`: what the kernel says of the programs.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use netd::lab::host::binary;
use netd_common::abi::STEP_PROGRAMS;
use netd_tests::site::skipped;
use serde_json::Value;

/// What kernels since 5.2 verify at most of a program.
const MOST: u64 = 1_000_000;

#[test]
fn the_kernel_takes_every_program() {
    const TEST: &str = "the_kernel_takes_every_program";
    if skipped(TEST) {
        return;
    }
    let check = || -> Result<()> {
        let mut command = Command::new(binary()?);
        let output = command.args(["verify", "--json"]).stdin(Stdio::null()).output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "{}: {said}", output.status);
        let programs: Vec<Value> = serde_json::from_str(&said).context("not JSON")?;
        let name = |program: &Value| program["program"].as_str().unwrap_or_default().to_owned();
        for program in &programs {
            let verified =
                program["verified"].as_u64().with_context(|| format!("{program} is not verified"))?;
            ensure!((1..=MOST).contains(&verified), "{program}");
        }
        for expected in STEP_PROGRAMS.iter().chain(&["from_container", "from_uplink", "flow_gc", "connect6"])
        {
            let count = programs.iter().filter(|program| name(program) == *expected).count();
            ensure!(count == 1, "{expected} stands {count} times in {said}");
        }
        Ok(())
    };
    check().unwrap_or_else(|error| panic!("{TEST}: {error:#}"));
}
