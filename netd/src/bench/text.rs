//! The report for people.

use std::fmt::Write as _;

use comfy_table::{Cell, CellAlignment, Color, Table, presets::UTF8_FULL_CONDENSED};

use super::{
    case::Unit,
    latency::Latency,
    report::{Outcome, Ratio, Report},
    scene::VARIANTS,
};

/// Differences below this are within what two runs of the same thing differ by.
const NOISE: f64 = 0.05;
/// With fewer samples than this, the 90th percentile says nothing that the largest does not.
const MANY: usize = 20;

/// Everything, as text.
pub(super) fn text(report: &Report) -> String {
    let mut text = format!("{}\n", report.machine.line());
    if let Some(warning) = report.machine.warning() {
        let _ = writeln!(text, "{warning}");
    }
    let measured: Vec<&Outcome> =
        report.outcomes.iter().filter(|outcome| !outcome.series.is_empty()).collect();
    for group in measured.chunk_by(|one, next| one.group == next.group) {
        let _ = writeln!(text, "\n{}:\n{}", group[0].group, table(group));
    }
    if report.outcomes.iter().any(|outcome| outcome.series.iter().any(|one| outcome.ratio(one).is_some())) {
        text.push_str(
            "netd is: how many times better netd's median is (above 1: netd is better, whatever the unit); in parentheses, the \
             single rounds.\n",
        );
    }
    if !report.targets.is_empty() {
        let _ = writeln!(
            text,
            "\nTargets, of medians, whatever the unit (in parentheses, the single rounds):\n{}",
            targets(report)
        );
    }
    for outcome in &report.outcomes {
        for series in &outcome.series {
            if let Some(first) = series.failures().next() {
                let count = series.failures().count();
                let _ = writeln!(
                    text,
                    "✗ {} (CPUs: {}), {}: {count} of {} samples failed; the first: {first}",
                    outcome.name(),
                    outcome.cpus,
                    series.variant,
                    series.samples.len()
                );
            }
        }
    }
    for (variant, line) in &report.evidence {
        let _ = writeln!(text, "{variant}: {line}");
    }
    for (variant, reason) in &report.unavailable {
        let reason: Vec<&str> = reason.split_whitespace().collect();
        let _ = writeln!(text, "✗ {variant} was not measured: {}", reason.join(" "));
    }
    text
}

/// What the names in the table mean.
pub(super) fn legend(variants: &[&str]) -> String {
    let chosen = || VARIANTS.iter().filter(|variant| variants.contains(&variant.name));
    let width = chosen().map(|variant| variant.name.len()).max().unwrap_or(0);
    chosen()
        .fold(String::new(), |text, variant| format!("{text}  {:<width$} {}\n", variant.name, variant.what))
}

fn table(outcomes: &[&Outcome]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    let many = outcomes.iter().flat_map(|outcome| &outcome.series).any(|one| one.samples.len() >= MANY);
    let all = || outcomes.iter().flat_map(|outcome| &outcome.series);
    let has_latency = all().any(|series| series.latency().is_some());
    let has_cost = all().any(|series| series.cost(|sample| sample.cpu).is_some());
    let has_cycles = all().any(|series| series.cost(|sample| sample.cycles).is_some());
    let heading = |shown: bool, text: &str| shown.then(|| Cell::new(text));
    let names = ["case", "CPUs", "variant", "median", "min … max"].map(Cell::new);
    let more = [
        heading(many, "90 %"),
        heading(has_latency, "50 / 99 / 99.9 %, µs"),
        heading(has_cost, "CPU time"),
        heading(has_cycles, "instructions, cycles"),
        heading(true, "netd is"),
    ];
    table.set_header(names.into_iter().chain(more.into_iter().flatten()).collect::<Vec<_>>());
    for outcome in outcomes {
        // One that has nothing to measure here, such as a daemon's memory where there is no daemon, has no row.
        let series = outcome.series.iter().filter(|series| !series.samples.is_empty());
        for (index, series) in series.enumerate() {
            let right = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
            let none = || "–".to_owned();
            let first = index == 0;
            let median = series.median().map_or_else(none, |median| quantity(median, outcome.unit));
            let range =
                series.range().map_or_else(none, |(low, high)| format!("{} … {}", number(low), number(high)));
            let latency = |latency: Latency| {
                [50.0, 99.0, 99.9].map(|percent| number(latency.percentile(percent))).join(" / ")
            };
            let cpu = |cost| format!("{} µs/{}", number(cost), outcome.operation);
            let counted = |(instructions, cycles)| format!("{}, {}", number(instructions), number(cycles));
            let counts = series
                .cost(|sample| sample.instructions)
                .zip(series.cost(|sample| sample.cycles))
                .map(counted);
            let more = [
                many.then(|| series.p90().map(number)),
                has_latency.then(|| series.latency().map(latency)),
                has_cost.then(|| series.cost(|sample| sample.cpu).map(cpu)),
                has_cycles.then_some(counts),
            ];
            let more = more.into_iter().flatten().map(|text| right(text.unwrap_or_else(none)));
            let cells = [
                Cell::new(if first { outcome.name() } else { String::new() }),
                right(if first { outcome.cpus.to_string() } else { String::new() }),
                Cell::new(series.variant),
                right(median),
                right(range),
            ];
            let ratio = ratio_cell(outcome.ratio(series));
            table.add_row(cells.into_iter().chain(more).chain([ratio]).collect::<Vec<_>>());
        }
    }
    table
}

/// Each target, and what came of it.
fn targets(report: &Report) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header(["case", "variant", "against", "at least", "reached", ""]);
    for verdict in &report.targets {
        let [case, variant, against, least] = verdict.names();
        let reached = verdict.reached().map_or_else(|| "not measured".to_owned(), ratio_text);
        let met = match verdict.is_met() {
            Some(true) => Cell::new("✓").fg(Color::Green),
            Some(false) => Cell::new("✗").fg(Color::Red),
            None => Cell::new(""),
        };
        let right = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
        table.add_row([
            Cell::new(case),
            Cell::new(variant),
            Cell::new(against),
            right(least),
            right(reached),
            met,
        ]);
    }
    table
}

fn ratio_text(Ratio { ratio, range: (low, high) }: Ratio) -> String {
    format!("{ratio:.2}× ({low:.2} … {high:.2})")
}

fn ratio_cell(ratio: Option<Ratio>) -> Cell {
    let Some(compared) = ratio else { return Cell::new("") };
    let cell = Cell::new(ratio_text(compared)).set_alignment(CellAlignment::Right);
    let ratio = compared.ratio;
    if ratio > 1.0 + NOISE {
        cell.fg(Color::Green)
    } else if ratio < 1.0 - NOISE {
        cell.fg(Color::Red)
    } else {
        cell
    }
}

/// A value with its unit, and for times of traffic the rate that they amount to.
pub(super) fn quantity(value: f64, unit: Unit) -> String {
    match (unit, unit.per_second(value)) {
        (Unit::Microseconds, Some(rate)) => format!("{} {} ({}/s)", number(value), unit.text(), number(rate)),
        (Unit::PerSecond, _) => format!("{}{}", number(value), unit.text()),
        _ => format!("{} {}", number(value), unit.text()),
    }
}

/// Three or four digits that count; thousands apart.
pub(super) fn number(value: f64) -> String {
    match value.abs() {
        small if small < 10.0 => format!("{value:.2}"),
        small if small < 100.0 => format!("{value:.1}"),
        _ => whole(value),
    }
}

/// To the next whole number; thousands apart.
pub(super) fn whole(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{super::report::tests::example, *};

    #[test]
    fn numbers() {
        for (value, text) in [
            (0.004, "0.00"),
            (9.876, "9.88"),
            (14.94, "14.9"),
            (100.0, "100"),
            (999.6, "1,000"),
            (98_765.4, "98,765"),
            (1_234_567.0, "1,234,567"),
        ] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn counts() {
        for (value, text) in [(0.0, "0"), (10.2, "10"), (250_000.0, "250,000")] {
            assert_eq!(whole(value), text);
        }
    }

    #[test]
    fn quantities() {
        assert_eq!(quantity(12.5, Unit::Microseconds), "12.5 µs (80,000/s)");
        assert_eq!(quantity(12.5, Unit::Milliseconds), "12.5 ms");
        assert_eq!(quantity(23.0, Unit::GigabitsPerSecond), "23.0 Gb/s");
        assert_eq!(quantity(23_000.0, Unit::PerSecond), "23,000/s");
    }

    #[test]
    fn the_table_has_a_row_for_each_variant() {
        let text = text(&example());
        let rows: Vec<Vec<&str>> = text
            .lines()
            .filter(|line| line.starts_with('│'))
            .map(|line| line.split(['│', '┆']).map(str::trim).filter(|cell| !cell.is_empty()).collect())
            .collect();
        assert_eq!(rows[1], ["tcp-rr", "1", "netd", "11.0 µs (90,909/s)", "10.0 … 12.0"]);
        assert_eq!(rows[2], ["bridge", "18.5 µs (54,054/s)", "15.0 … 22.0", "1.68× (1.50 … 2.00)"]);
        assert_eq!(rows[3], ["loopback", "–", "–"]);
        assert!(
            text.contains("✗ tcp-rr (CPUs: 1), bridge: 1 of 3 samples failed; the first: no answer"),
            "{text}"
        );
        assert!(text.contains("✗ veth was not measured: no veth in this kernel"), "{text}");
        assert!(text.contains("bridge: 7 packets"), "{text}");
    }

    #[test]
    fn targets_have_a_table_of_their_own() {
        let mut report = example();
        assert!(!text(&report).contains("Targets"));
        report.targets = super::super::targets::judge(&report.outcomes);
        let text = text(&report);
        let line = |words: [&str; 3]| text.lines().find(|line| words.iter().all(|word| line.contains(word)));
        let met = line(["tcp-rr", "bridge", "1.40×"]).expect("a line");
        assert!(met.contains("1.68× (1.50 … 2.00)") && met.contains('✓'), "{met}");
        let unknown = line(["tcp-rr", "veth", "0.97×"]).expect("a line");
        assert!(unknown.contains("not measured") && !unknown.contains('✗'), "{unknown}");
    }

    #[test]
    fn many_samples_have_a_90th_percentile() {
        let mut report = example();
        assert!(!text(&report).contains("90 %"));
        report.outcomes[0].series[0].samples = (1..=20).map(|value| Ok(f64::from(value).into())).collect();
        let text = text(&report);
        assert!(text.contains("90 %") && text.contains("18.0"), "{text}");
    }

    #[test]
    fn the_legend_explains_what_was_measured() {
        let text = legend(&["veth", "netd"]);
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.starts_with("  netd "), "{text}");
    }
}
