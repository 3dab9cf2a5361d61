//! The report as a page: plots, tables, and what they were measured on and with.

use std::{
    env,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::{
    plot::{self, Line},
    report::{Outcome, Report},
    scene::VARIANTS,
    text,
};

/// The files of a report.
const INDEX: &str = "index.html";
const JSON: &str = "report.json";

const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#202224;--paper:#fff;--line:#c8ccd0}
@media(prefers-color-scheme:dark){:root{--ink:#e4e6e8;--paper:#15181b;--line:#43474b}}
body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:800px;margin:2em auto;padding:0 1em}
svg{max-width:100%;height:auto}
table{border-collapse:collapse;font-size:14px}
th,td{border-bottom:1px solid var(--line);padding:.2em .8em .2em 0;text-align:left;vertical-align:top}
code,pre{font-size:14px;white-space:pre-wrap;overflow-wrap:anywhere}";

/// A directory for a report.
pub(super) struct Page {
    directory: PathBuf,
}

impl Page {
    /// Makes the directory.
    ///
    /// # Errors
    /// Nothing can be written there.
    pub(super) fn create(directory: &Path) -> Result<Self> {
        let why = || format!("--report {}: nothing can be written there", directory.display());
        fs::create_dir_all(directory).with_context(why)?;
        tempfile::tempfile_in(directory).with_context(why)?;
        Ok(Self { directory: directory.to_owned() })
    }

    /// Writes the page, its plots as files of their own, and the JSON.
    ///
    /// # Errors
    /// A file cannot be written.
    pub(super) fn write(&self, report: &Report) -> Result<()> {
        let plots = plots(report)?;
        for plot in &plots {
            self.file(&plot.file, &plot.svg)?;
        }
        self.file(INDEX, &html(report, &plots))?;
        let json = serde_json::to_string_pretty(&report.json()).context("cannot write JSON")?;
        self.file(JSON, &json)
    }

    fn file(&self, name: &str, text: &str) -> Result<()> {
        let path = self.directory.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}

struct Plot {
    group: &'static str,
    what: &'static str,
    file: String,
    svg: String,
}

/// Each case as bars, or, where it was measured at several counts, as a curve; and its latencies.
fn plots(report: &Report) -> Result<Vec<Plot>> {
    let mut names: Vec<&str> = Vec::new();
    for series in report.outcomes.iter().flat_map(|outcome| &outcome.series) {
        if !names.contains(&series.variant) {
            names.push(series.variant);
        }
    }
    let mut plots = Vec::new();
    let is_measured = |outcome: &&Outcome| outcome.series.iter().any(|series| series.median().is_some());
    let outcomes: Vec<&Outcome> = report.outcomes.iter().filter(is_measured).collect();
    let same = |one: &&Outcome, next: &&Outcome| {
        one.case == next.case && one.cpus == next.cpus && one.count.is_some() && next.count.is_some()
    };
    for cases in outcomes.chunk_by(same) {
        let outcome = cases[0];
        let file = format!("{}-{}", outcome.case, outcome.cpus);
        let mut add = |file: String, svg| {
            plots.push(Plot { group: outcome.group, what: outcome.what, file, svg });
        };
        if outcome.count.is_some() {
            add(format!("{file}.svg"), curves(cases, &names)?);
            continue;
        }
        add(format!("{file}.svg"), plot::bars(outcome, &names)?);
        if let Some(svg) = plot::latencies(outcome, &names) {
            add(format!("{file}-latency.svg"), svg?);
        }
    }
    Ok(plots)
}

/// One case at several counts.
fn curves(cases: &[&Outcome], names: &[&str]) -> Result<String> {
    let lines: Vec<Line> = names
        .iter()
        .map(|name| {
            let point = |outcome: &&Outcome| {
                let series = outcome.series.iter().find(|series| series.variant == *name)?;
                Some((f64::from(outcome.count?), series.median()?))
            };
            Line { name: (*name).to_owned(), points: cases.iter().filter_map(point).collect() }
        })
        .filter(|line| !line.points.is_empty())
        .collect();
    let unit = cases[0].unit;
    let title = format!("{}, {} ({} is better)", cases[0].case, unit.text(), unit.better().text());
    plot::curves(&title, &lines, names)
}

fn html(report: &Report, plots: &[Plot]) -> String {
    let mut page = String::new();
    let mut line = |text: &str| {
        page.push_str(text);
        page.push('\n');
    };
    line("<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">");
    line("<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">");
    line(&format!("<title>netd bench</title>\n<style>{STYLE}</style>\n<h1>netd bench</h1>"));
    line(&format!("<p>{}</p>", escaped(&report.machine.line())));
    if let Some(warning) = report.machine.warning() {
        line(&format!("<p><strong>{}</strong></p>", escaped(&warning)));
    }
    line(&format!("<p>Measured by:</p>\n<pre>{}</pre>", escaped(&command())));
    line(&format!("<p>Settings: <code>{}</code></p>", escaped(&report.settings.to_string())));
    line(
        "<p>Bars and curves are medians, dots are the single samples, taken in turns. The factor behind a value is how many \
         times better netd's median is: above 1, netd is better, whatever the unit.</p>",
    );
    line(&machine(report));
    let measured = |name: &str| {
        report.outcomes.iter().flat_map(|outcome| &outcome.series).any(|series| series.variant == name)
    };
    line("<h2>Variants</h2>\n<table>");
    for variant in VARIANTS.iter().filter(|variant| measured(variant.name)) {
        line(&format!("<tr><td><code>{}</code><td>{}", variant.name, escaped(variant.what)));
    }
    line("</table>");
    for group in plots.chunk_by(|one, next| one.group == next.group) {
        line(&format!("<h2>{}</h2>", escaped(group[0].group)));
        for case in group.chunk_by(|one, next| one.what == next.what) {
            line(&format!("<p>{}</p>", escaped(case[0].what)));
            for plot in case {
                // The declaration of a file has no place inside a page.
                let svg = plot.svg.find("<svg").map_or("", |start| &plot.svg[start..]);
                line(&format!("<p>{svg}</p>"));
            }
        }
    }
    line("<h2>Not measured</h2>\n<table>");
    if report.unavailable.is_empty() {
        line("<tr><td>Nothing was left out.");
    }
    for (name, reason) in &report.unavailable {
        line(&format!("<tr><td>{}<td>{}", escaped(name), escaped(reason)));
    }
    line("</table>\n<h2>All of it, as text</h2>");
    line(&format!("<pre>{}</pre>", escaped(&text::text(report))));
    line(&format!("<p>Every sample is in <a href=\"{JSON}\">{JSON}</a>.</p>"));
    page
}

fn machine(report: &Report) -> String {
    let mut rows = String::from("<h2>Machine</h2>\n<table>\n");
    if let Ok(serde_json::Value::Object(fields)) = serde_json::to_value(&report.machine) {
        for (name, value) in fields {
            let value = match &value {
                serde_json::Value::Object(parts) => {
                    let parts = parts.values().filter_map(serde_json::Value::as_str);
                    parts.collect::<Vec<_>>().join("; ")
                }
                value => value.as_str().map_or_else(|| value.to_string(), str::to_owned),
            };
            let _ = writeln!(rows, "<tr><td>{}<td>{}", escaped(&name.replace('_', " ")), escaped(&value));
        }
    }
    rows + "</table>"
}

/// How this program was called.
fn command() -> String {
    let word = |word: String| match word.chars().all(|one| one.is_alphanumeric() || "-_=,./:".contains(one)) {
        true => word,
        false => format!("'{}'", word.replace('\'', r"'\''")),
    };
    env::args_os().map(|argument| word(argument.to_string_lossy().into_owned())).collect::<Vec<_>>().join(" ")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::{super::report::tests::example, *};

    #[test]
    fn the_files_are_written() {
        let directory = tempfile::tempdir().expect("a directory");
        let inside = directory.path().join("a/b");
        let mut report = example();
        report.unavailable.push(("netkit", "<no such link>".to_owned()));
        Page::create(&inside).expect("a page").write(&report).expect("files");
        let page = fs::read_to_string(inside.join(INDEX)).expect("a page");
        for part in ["<svg", "tcp-rr", "no veth in this kernel", "&lt;no such link&gt;", "Measured by:"] {
            assert!(page.contains(part), "no {part}");
        }
        assert!(!page.contains("<?xml"), "a declaration inside the page");
        let json = fs::read_to_string(inside.join(JSON)).expect("JSON");
        let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!(json["cases"], report.json()["cases"]);
        assert!(inside.join("tcp-rr-1.svg").is_file());
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_refused_before_anything_is_measured() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let error = Page::create(file.path()).err().expect("an error");
        assert!(error.to_string().starts_with("--report "), "{error:#}");
    }

    #[test]
    fn cases_at_several_counts_are_a_curve() {
        let mut report = example();
        report.outcomes.push(Outcome { count: Some(100), ..example().outcomes.remove(0) });
        report.outcomes[0].count = Some(10);
        let plots = plots(&report).expect("plots");
        assert_eq!(plots.len(), 1, "one curve");
        assert_eq!(plots[0].file, "tcp-rr-1.svg");
    }
}
