//! Plots, as SVG. Each is a file that stands alone, for light and for dark pages.

use std::ops::Range;

use anyhow::{Context, Result, anyhow};
use plotters::{
    coord::{Shift, combinators::IntoLogRange as _},
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use super::{
    report::{Outcome, Series},
    text::{number, quantity, whole},
};

const WIDTH: u32 = 760;
/// Height of a plot of lines.
const HEIGHT: u32 = 340;
/// Height of a bar with what is around it.
const ROW: u32 = 34;
/// Width of the names of variants, and of the values.
const NAMES: u32 = 130;
const VALUES: u32 = 170;

/// Text and axes: the style sheet knows it by its value, and makes it light on dark pages.
const INK: RGBColor = RGBColor(0x20, 0x22, 0x24);
/// Grid lines, on both.
const GRID: RGBColor = RGBColor(0x80, 0x84, 0x88);
/// Of variants, told apart on light and on dark.
const PALETTE: [RGBColor; 10] = [
    RGBColor(0x1b, 0x9e, 0x77),
    RGBColor(0xe0, 0x5d, 0x22),
    RGBColor(0x75, 0x70, 0xd3),
    RGBColor(0xe7, 0x29, 0x8a),
    RGBColor(0x3f, 0x8f, 0xd0),
    RGBColor(0xc9, 0x9a, 0x0c),
    RGBColor(0x8c, 0x6d, 0x31),
    RGBColor(0x66, 0xa6, 0x1e),
    RGBColor(0x90, 0x90, 0x90),
    RGBColor(0xc0, 0x50, 0x50),
];
const STYLE: &str = "<style>svg{background:#fff;font-family:system-ui,sans-serif}@media(prefers-color-scheme:dark){\
svg{background:#15181b}[fill=\"#202224\"]{fill:#e4e6e8}[stroke=\"#202224\"]{stroke:#e4e6e8}}</style>";

/// One line of a plot.
pub(super) struct Line {
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
}

/// The colour of a variant: the same in all plots of a report that has these variants.
fn color(name: &str, names: &[&str]) -> RGBColor {
    let index = names.iter().position(|one| *one == name).unwrap_or_default();
    PALETTE[index % PALETTE.len()]
}

/// The medians of a case as bars, each sample as a dot.
pub(super) fn bars(outcome: &Outcome, names: &[&str]) -> Result<String> {
    let rows: Vec<(&Series, f64)> =
        outcome.series.iter().filter_map(|series| Some((series, series.median()?))).collect();
    let largest = rows.iter().flat_map(|(series, _)| series.values()).fold(0.0, f64::max);
    let height = ROW * (rows.len() as u32 + 2);
    draw(height, |root| {
        let mut chart = ChartBuilder::on(root)
            .caption(title(outcome), ("sans-serif", 17, &INK))
            .margin_left(NAMES)
            .margin_right(VALUES)
            .x_label_area_size(24)
            .build_cartesian_2d(0.0..largest.max(f64::MIN_POSITIVE), (rows.len() as f64)..0.0)
            .map_err(failed)?;
        chart
            .configure_mesh()
            .disable_y_mesh()
            .disable_y_axis()
            .x_labels(6)
            .x_label_formatter(&|value| number(*value))
            .label_style(("sans-serif", 13, &INK))
            .axis_style(GRID)
            .bold_line_style(GRID.mix(0.4))
            .light_line_style(TRANSPARENT)
            .draw()
            .map_err(failed)?;
        let middle = Pos::new(HPos::Left, VPos::Center);
        let text = FontDesc::from(("sans-serif", 14)).color(&INK).pos(middle);
        for (index, (series, median)) in rows.iter().enumerate() {
            let (top, center) = (index as f64, index as f64 + 0.5);
            let color = color(series.variant, names);
            let bar = Rectangle::new([(0.0, top + 0.2), (*median, top + 0.8)], color.mix(0.55).filled());
            let dots =
                series.values().into_iter().map(|value| Circle::new((value, center), 3, color.filled()));
            chart.draw_series([bar]).map_err(failed)?;
            chart.draw_series(dots).map_err(failed)?;
            let (_, y) = chart.backend_coord(&(0.0, center));
            root.draw(&Text::new(series.variant, (10, y), text.clone())).map_err(failed)?;
            let ratio = outcome.ratio(series).map_or_else(String::new, |one| format!("  {:.2}×", one.ratio));
            let value = format!("{}{ratio}", quantity(*median, outcome.unit));
            let x = (WIDTH - VALUES + 10).cast_signed();
            root.draw(&Text::new(value, (x, y), text.clone())).map_err(failed)?;
        }
        Ok(())
    })
}

fn title(outcome: &Outcome) -> String {
    let cpus = if outcome.cpus == 1 { "one CPU".to_owned() } else { format!("{} CPUs", outcome.cpus) };
    format!(
        "{}, {cpus}, {} ({} is better)",
        outcome.name(),
        outcome.unit.text(),
        outcome.unit.better().text()
    )
}

/// How long requests take: the time against the part of them that takes no longer. `None` where there are no requests.
pub(super) fn latencies(outcome: &Outcome, names: &[&str]) -> Option<Result<String>> {
    /// From half of the requests to all but one in ten thousand.
    const PERCENTS: [f64; 12] = [10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 98.0, 99.0, 99.5, 99.9, 99.95, 99.99];
    let lines: Vec<Line> = outcome
        .series
        .iter()
        .filter_map(|series| {
            let latency = series.latency()?;
            let points = PERCENTS.map(|percent| (nines(percent), latency.percentile(percent)));
            Some(Line { name: series.variant.to_owned(), points: points.to_vec() })
        })
        .collect();
    if lines.is_empty() {
        return None;
    }
    let label = |nines: &f64| match nines.round() as u32 {
        0 => "0 %".to_owned(),
        1 => "90 %".to_owned(),
        more => format!("99{}{} %", if more > 2 { "." } else { "" }, "9".repeat(more as usize - 2)),
    };
    let (low, high) = bounds(&lines)?;
    let title = format!("{}: µs that this part of the requests did not exceed", outcome.case);
    Some(draw(HEIGHT, |root| {
        let mut chart = ChartBuilder::on(root)
            .caption(title, ("sans-serif", 17, &INK))
            .margin(10)
            .margin_right(30)
            .x_label_area_size(26)
            .y_label_area_size(60)
            .build_cartesian_2d(0.0..4.0, (low * 0.9..high * 1.1).log_scale())
            .map_err(failed)?;
        chart
            .configure_mesh()
            .x_labels(5)
            .x_label_formatter(&label)
            .y_label_formatter(&|value| number(*value))
            .label_style(("sans-serif", 13, &INK))
            .axis_style(GRID)
            .bold_line_style(GRID.mix(0.4))
            .light_line_style(TRANSPARENT)
            .draw()
            .map_err(failed)?;
        for line in &lines {
            let color = color(&line.name, names);
            chart
                .draw_series(LineSeries::new(line.points.iter().copied(), color.stroke_width(2)))
                .map_err(failed)?
                .label(&line.name)
                .legend(move |(x, y)| Rectangle::new([(x, y - 4), (x + 14, y + 4)], color.filled()));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .label_font(("sans-serif", 13, &INK))
            .draw()
            .map_err(failed)
    }))
}

/// 0.9 is one nine, 0.99 are two.
fn nines(percent: f64) -> f64 {
    -(1.0 - percent / 100.0).log10()
}

/// A value against a count of something, which goes over several powers of ten.
pub(super) fn curves(title: &str, lines: &[Line], names: &[&str]) -> Result<String> {
    let counts = || lines.iter().flat_map(|line| line.points.iter().map(|(count, _)| *count));
    let range: Range<f64> = counts().fold(f64::INFINITY, f64::min)..counts().fold(0.0, f64::max);
    let (_, high) = bounds(lines).context("a plot of nothing")?;
    draw(HEIGHT, |root| {
        let mut chart = ChartBuilder::on(root)
            .caption(title, ("sans-serif", 17, &INK))
            .margin(10)
            .margin_right(30)
            .x_label_area_size(26)
            .y_label_area_size(70)
            .build_cartesian_2d((range.start * 0.9..range.end * 1.1).log_scale(), 0.0..high * 1.15)
            .map_err(failed)?;
        chart
            .configure_mesh()
            .x_label_formatter(&|count| whole(*count))
            .y_label_formatter(&|value| number(*value))
            .label_style(("sans-serif", 13, &INK))
            .axis_style(GRID)
            .bold_line_style(GRID.mix(0.4))
            .light_line_style(TRANSPARENT)
            .draw()
            .map_err(failed)?;
        for line in lines {
            let color = color(&line.name, names);
            let points = || line.points.iter().copied();
            chart
                .draw_series(LineSeries::new(points(), color.stroke_width(2)))
                .map_err(failed)?
                .label(&line.name)
                .legend(move |(x, y)| Rectangle::new([(x, y - 4), (x + 14, y + 4)], color.filled()));
            chart.draw_series(points().map(|point| Circle::new(point, 4, color.filled()))).map_err(failed)?;
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerLeft)
            .label_font(("sans-serif", 13, &INK))
            .draw()
            .map_err(failed)
    })
}

/// The smallest and the largest value.
fn bounds(lines: &[Line]) -> Option<(f64, f64)> {
    super::stats::range(lines.iter().flat_map(|line| line.points.iter().map(|(_, value)| *value)))
}

type Root<'a> = DrawingArea<SVGBackend<'a>, Shift>;

fn draw(height: u32, plot: impl FnOnce(&Root<'_>) -> Result<()>) -> Result<String> {
    let mut text = String::new();
    let root = SVGBackend::with_string(&mut text, (WIDTH, height)).into_drawing_area();
    plot(&root)?;
    root.present().map_err(failed)?;
    drop(root);
    // Right after the opening tag.
    let tag = text.find("<svg").and_then(|start| Some(start + text[start..].find('>')? + 1));
    text.insert_str(tag.context("a plot without svg")?, STYLE);
    Ok(text)
}

/// The error of a plot holds what is borrowed from its area.
fn failed(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("cannot plot: {error}")
}

#[cfg(test)]
mod tests {
    use super::{super::report::tests::example, *};

    #[test]
    fn bars_name_the_variants_and_their_values() {
        let report = example();
        let svg = bars(&report.outcomes[0], &["netd", "bridge"]).expect("a plot");
        for part in ["netd", "bridge", "11.0 µs", "1.68×", "prefers-color-scheme:dark", "lower is better"] {
            assert!(svg.contains(part), "no {part} in {svg}");
        }
        assert!(!svg.contains("loopback"), "it has no sample");
        // The ink of the style sheet is the one that is drawn with.
        assert!(svg.contains("fill=\"#202224\""), "{svg}");
    }

    #[test]
    fn no_requests_have_no_latencies() {
        assert!(latencies(&example().outcomes[0], &[]).is_none());
    }

    #[test]
    fn percentiles_are_told_by_their_nines() {
        for (percent, expected) in [(0.0, 0.0), (90.0, 1.0), (99.9, 3.0)] {
            assert!((nines(percent) - expected).abs() < 1e-9, "{percent}");
        }
    }

    #[test]
    fn curves_have_a_line_for_each_variant() {
        let line = |name: &str| Line {
            name: name.to_owned(),
            points: vec![(10.0, 5.0), (100.0, 6.0), (10_000.0, 7.0)],
        };
        let svg =
            curves("cost of routes", &[line("netd"), line("bridge")], &["netd", "bridge"]).expect("a plot");
        assert!(svg.contains("netd") && svg.contains("bridge") && svg.contains("10,000"), "{svg}");
        assert!(curves("nothing", &[], &[]).is_err());
    }
}
