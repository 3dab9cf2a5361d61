//! `netd bench`, as its users call it. What it measures decides nothing here.

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
};

use anyhow::{Context, Result, ensure};
use netd::lab::host::binary;
use netd_tests::site::skipped;
use serde_json::Value;

fn test(name: &str, body: fn() -> Result<()>) {
    if !skipped(name)
        && let Err(error) = body()
    {
        panic!("{name}: {error:#}");
    }
}

/// Runs it, and returns its JSON with how it ended.
fn bench(arguments: &[&str]) -> Result<(Value, Output)> {
    let mut command = Command::new(binary()?);
    command.arg("bench").args(arguments).arg("--json").stdin(Stdio::null());
    let output = command.output().context("cannot run netd bench")?;
    let said = String::from_utf8_lossy(&output.stderr);
    let report = serde_json::from_slice(&output.stdout).with_context(|| format!("not JSON; {said}"))?;
    Ok((report, output))
}

/// The variants of a case.
fn variants<'a>(report: &'a Value, case: &str) -> Result<Vec<&'a Value>> {
    let cases = report["cases"].as_array().context("no cases")?;
    let case = cases.iter().find(|one| one["case"] == case).with_context(|| format!("no case {case}"))?;
    Ok(case["variants"].as_array().context("no variants")?.iter().collect())
}

fn named<'a>(variants: &[&'a Value], name: &str) -> Result<&'a Value> {
    variants.iter().find(|one| one["variant"] == name).copied().with_context(|| format!("no variant {name}"))
}

fn positive(value: &Value) -> bool {
    value.as_f64().is_some_and(|value| value > 0.0)
}

fn number(value: &Value) -> Result<f64> {
    value.as_f64().with_context(|| format!("{value} is no number"))
}

fn is_near(one: f64, other: f64, tolerance: f64) -> bool {
    (one - other).abs() <= tolerance * other.abs()
}

/// Holds what a report says in one place against what it says in others.
fn agrees_with_itself(report: &Value) -> Result<()> {
    const EXACT: f64 = 1e-9;
    let seconds = number(&report["settings"]["seconds"])?;
    for case in report["cases"].as_array().context("no cases")? {
        for variant in case["variants"].as_array().context("no variants")? {
            let samples = variant["samples"].as_array().context("no samples")?;
            let mut sorted = samples.iter().map(number).collect::<Result<Vec<f64>>>()?;
            sorted.sort_by(f64::total_cmp);
            let (min, max) = (sorted[0], sorted[sorted.len() - 1]);
            let half = sorted.len() / 2;
            let median =
                if sorted.len() % 2 == 1 { sorted[half] } else { sorted[half - 1].midpoint(sorted[half]) };
            for (key, expected) in [("min", min), ("median", median), ("max", max)] {
                ensure!(is_near(number(&variant[key])?, expected, EXACT), "{key} of {sorted:?}: {variant:#}");
            }
            for (round, sample) in variant["rounds"].as_array().context("no rounds")?.iter().zip(samples) {
                ensure!(round["value"] == *sample, "{round} is not {sample}");
                let value = number(sample)?;
                let is_time = variant["unit"] == "µs";
                // A request that is timed is a request: all of them together fill the time of the sample.
                if is_time && let Some(count) = round["latency"]["count"].as_f64() {
                    let counted = count * value / 1e6;
                    ensure!(counted > seconds / 2.0, "{count} requests in {counted} s of {seconds}: {round}");
                    ensure!(number(&round["latency"]["p50"])? < 3.0 * value, "{round}");
                }
                // Both ends are bound to the case's CPUs, and cannot have used more than those have.
                let cpus = number(&case["cpus"])?;
                let operation = if is_time { value } else { 1e6 / value };
                let used = number(&round["cpu_microseconds"])?;
                ensure!(used <= 1.5 * cpus * operation, "{used} µs of CPU for {operation} µs: {round}");
            }
        }
    }
    for ratio in report["ratios"].as_array().context("no ratios")? {
        let name = |key: &str| ratio[key].as_str().with_context(|| format!("no {key} in {ratio}"));
        let variants = variants(report, name("case")?)?;
        let (netd, other) = (named(&variants, "netd")?, named(&variants, name("against")?)?);
        let (mine, others) = (number(&netd["median"])?, number(&other["median"])?);
        let expected = if netd["unit"] == "µs" { others / mine } else { mine / others };
        ensure!(is_near(number(&ratio["ratio"])?, expected, EXACT), "{expected}, not {ratio}");
    }
    Ok(())
}

fn has_files(directory: &Path, plots: &[&str]) -> Result<String> {
    let read = |name: &str| {
        fs::read_to_string(directory.join(name)).with_context(|| format!("the report has no {name}"))
    };
    for plot in plots {
        ensure!(read(plot)?.contains("</svg>"), "{plot} is no plot");
    }
    serde_json::from_str::<Value>(&read("report.json")?).context("report.json")?;
    read("index.html")
}

#[test]
fn a_quick_run_is_well_formed_json_and_a_page() {
    test("a_quick_run_is_well_formed_json_and_a_page", || {
        let directory = tempfile::tempdir().context("no directory")?;
        let page = directory.path().join("page");
        let page_text = page.to_str().context("a path")?;
        let cases = "tcp-rr,udp-fragments,egress-udp-64";
        // ipvlan and netkit: measured, or in the list of what is not, with the reason.
        let chosen = "netd,bridge-plain,ipvlan,netkit,loopback";
        let (report, output) =
            bench(&["--quick", "--cases", cases, "--variants", chosen, "--report", page_text])?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{}: {said}\n{report:#}", output.status);

        ensure!(report["machine"]["kernel"].is_string() && report["machine"]["cores"].is_u64());
        for (case, unit, expected) in [
            ("tcp-rr", "µs", &["netd", "bridge-plain", "loopback"][..]),
            ("udp-fragments", "/s", &["netd", "bridge-plain", "loopback"]),
            ("egress-udp-64", "/s", &["netd"]),
        ] {
            let variants = variants(&report, case)?;
            for name in expected {
                let variant = named(&variants, name)?;
                let samples = variant["samples"].as_array().context("no samples")?;
                ensure!(!samples.is_empty() && samples.iter().all(positive), "{case}: {variant:#}");
                ensure!(variant["unit"] == unit && positive(&variant["median"]), "{case}: {variant:#}");
                ensure!(positive(&variant["cpu_microseconds"]), "{case}: no CPU time in {variant:#}");
            }
        }
        for variant in variants(&report, "tcp-rr")? {
            let times = ["p50", "p90", "p99", "p99.9", "max"].map(|key| variant["latency"][key].as_f64());
            ensure!(times.iter().all(|time| time.is_some_and(|time| time > 0.0)), "{variant:#}");
            ensure!(times.is_sorted(), "percentiles do not grow: {variant:#}");
        }
        agrees_with_itself(&report)?;
        let ratios = report["ratios"].as_array().context("no ratios")?;
        for against in ["bridge-plain", "loopback"] {
            let is_it = |ratio: &&Value| ratio["case"] == "tcp-rr" && ratio["against"] == against;
            let ratio = ratios.iter().find(is_it).with_context(|| format!("no ratio against {against}"))?;
            ensure!(positive(&ratio["ratio"]), "{ratio}");
        }
        let measured = variants(&report, "tcp-rr")?;
        for name in ["ipvlan", "netkit"] {
            let left_out = report["unavailable"].as_array().into_iter().flatten();
            let reason = left_out.filter(|one| one["variant"] == name).find_map(|one| one["reason"].as_str());
            let known = named(&measured, name).is_ok() || reason.is_some_and(|text| !text.is_empty());
            ensure!(known, "{name} is neither measured nor named: {report:#}");
        }
        let html = has_files(&page, &["tcp-rr-1.svg", "tcp-rr-1-latency.svg", "udp-fragments-1.svg"])?;
        for part in ["<svg", "Not measured", "--report", "loopback"] {
            ensure!(html.contains(part), "the page has no {part}");
        }
        Ok(())
    });
}

/// Every case and variant that the targets need is built, checked and measured once.
#[test]
fn targets_are_judged() {
    test("targets_are_judged", || {
        let (report, output) = bench(&["--targets", "--rounds", "1", "--seconds", "0.02"])?;
        let said = String::from_utf8_lossy(&output.stderr);
        let left_out: Vec<&str> = report["unavailable"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|one| one["variant"].as_str())
            .collect();
        ensure!(output.status.success(), "{}: {said}\nnot measured: {left_out:?}", output.status);
        let targets = report["targets"].as_array().context("no targets")?;
        ensure!(targets.len() > 20, "{targets:?}");
        for target in targets {
            let of = |key: &str| target[key].as_str().unwrap_or_default();
            let known = [of("variant"), of("against")].iter().any(|variant| left_out.contains(variant));
            ensure!(known || positive(&target["ratio"]), "{target}: not measured: {left_out:?}");
            ensure!(known || target["met"].is_boolean(), "{target}");
        }
        // Nothing that no target needs.
        let names = |case: &str| -> Result<Vec<String>> {
            let text = |one: &Value| one["variant"].as_str().unwrap_or_default().to_owned();
            Ok(variants(&report, case)?.into_iter().map(text).collect())
        };
        for variant in names("tcp-crr")? {
            ensure!(["netd", "bridge"].contains(&variant.as_str()), "{variant} in tcp-crr");
        }
        ensure!(variants(&report, "udp-rr").is_err(), "udp-rr is no target's");
        // What is denied is dropped by who is to drop it.
        let evidence: Vec<&str> = report["evidence"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|one| one["text"].as_str())
            .collect();
        ensure!(evidence.iter().any(|text| text.contains("dropped by netd's deny list")), "{evidence:?}");
        Ok(())
    });
}

#[test]
fn a_long_deny_list_and_a_program_that_drops_all() {
    test("a_long_deny_list_and_a_program_that_drops_all", || {
        let chosen =
            ["--cases", "denied-udp-64,denied-udp-64-socket", "--variants", "netd-10000-denied,xdp-drop"];
        let (report, output) = bench(&[&chosen[..], &["--quick"]].concat())?;
        ensure!(output.status.success(), "{}: {report:#}", output.status);
        for case in ["denied-udp-64", "denied-udp-64-socket"] {
            let variants = variants(&report, case)?;
            for name in ["netd-10000-denied", "xdp-drop"] {
                ensure!(positive(&named(&variants, name)?["median"]), "{case}: {report:#}");
            }
        }
        Ok(())
    });
}

#[test]
fn scales_are_curves() {
    test("scales_are_curves", || {
        let directory = tempfile::tempdir().context("no directory")?;
        for (what, max, case, counts) in [
            ("endpoints", "100", "endpoints-tcp-rr", &[10, 100][..]),
            ("flows", "1000", "flows-tcp-crr", &[1000]),
            ("ports", "100", "ports-tcp-crr", &[10, 100]),
        ] {
            let page = directory.path().join(what);
            let page_text = page.to_str().context("a path")?;
            let settings = ["--max", max, "--rounds", "1", "--seconds", "0.02", "--report", page_text];
            let (report, output) = bench(&[&["scale", "--what", what][..], &settings].concat())?;
            ensure!(output.status.success(), "{what}, {}: {report:#}", output.status);
            let cases = report["cases"].as_array().context("no cases")?;
            let found: Vec<i64> = cases
                .iter()
                .filter(|one| one["case"] == case)
                .filter_map(|one| one["count"].as_i64())
                .collect();
            ensure!(found == counts, "{case}: {found:?}");
            let ratios = report["ratios"].as_array().context("no ratios")?;
            ensure!(!ratios.is_empty() && ratios.iter().all(|one| positive(&one["ratio"])), "{ratios:?}");
            has_files(&page, &[&format!("{case}-1.svg")])?;
        }
        Ok(())
    });
}

#[test]
fn a_report_that_cannot_be_written_is_refused_at_once() {
    test("a_report_that_cannot_be_written_is_refused_at_once", || {
        let file = tempfile::NamedTempFile::new().context("no file")?;
        let mut command = Command::new(binary()?);
        command.args(["bench", "--quick", "--report"]).arg(file.path()).stdin(Stdio::null());
        let output = command.output().context("cannot run netd bench")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(!output.status.success() && said.contains("--report"), "{}: {said}", output.status);
        ensure!(output.stdout.is_empty(), "something was measured");
        Ok(())
    });
}
