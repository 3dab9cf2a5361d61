//! The report for people.

use std::{
    fmt::Write as _,
    io::{IsTerminal as _, stdout},
    time::Duration,
};

use comfy_table::{Cell, CellAlignment, Color, ContentArrangement, Table, presets::UTF8_FULL_CONDENSED};

use super::{
    report::{Check, Configuration, Protocol, Report, What},
    scene::Scene,
};
use crate::{
    bpf::Counter,
    lab::{World, world},
};

const LOG_LINES: usize = 20;

/// What the reader needs to know to read the rest.
pub(super) fn introduction(world: &World) {
    println!(
        "netd demo: containers, hosts and the internet as network namespaces of this machine; real daemons, real traffic.\n\
         The internet is a server ({}) behind a router; neither has a route to a container.\n\
         A cell of a matrix shows ICMP, TCP, UDP, HTTP, and IPv6 (ICMP, TCP and UDP) in this order (✓ reached, ✗ not),\n\
         then the round trip of a ping; ⊘ what must not be reached, and is not.",
        world.address
    );
}

/// One configuration: the matrix, what failed, what carried it, what is on the host.
pub(super) fn configuration(configuration: &Configuration) {
    let title = format!("{}. {}", configuration.number, configuration.name);
    let mark = if configuration.passed() { paint("✓", Color::Green) } else { paint("✗", Color::Red) };
    println!("\n{mark} {title} ({:.1} s)", configuration.seconds);
    if let Some(note) = &configuration.note {
        let words: Vec<String> = note.split("; ").map(str::to_owned).collect();
        println!("{}", indent(&wrap(&words, "; ")));
    }
    if !configuration.checks.is_empty() {
        let places: Vec<String> =
            configuration.places.iter().map(|(name, address)| format!("{name} {address}")).collect();
        println!("{}", indent(&wrap(&places, ", ")));
        println!("{}", indent(&matrix(configuration).to_string()));
    }
    for check in configuration.checks.iter().filter(|check| !check.passed) {
        let what = check.what.text();
        println!("  {} {} → {}, {what}: {}", paint("✗", Color::Red), check.from, check.to, check.detail);
    }
    if let Some(error) = &configuration.error {
        println!("  {} {error}", paint("✗", Color::Red));
    }
    for what in [What::Masquerade, What::Carried, What::Dropped] {
        let checks: Vec<&Check> =
            configuration.checks.iter().filter(|check| check.what == what && check.passed).collect();
        if let Some(first) = checks.first() {
            let more = if checks.len() > 1 {
                format!(" (and {} more like it)", checks.len() - 1)
            } else {
                String::new()
            };
            let from = if check_is_of_host(first) { String::new() } else { format!("{}: ", first.from) };
            println!("  {} {}: {from}{}{more}", paint("✓", Color::Green), what.text(), first.detail);
        }
    }
    if !configuration.forwarded.is_empty() || !configuration.drops.is_empty() {
        println!("{}", indent(&carriers(configuration).to_string()));
    }
    if !configuration.programs.is_empty() {
        println!("  programs: {}", configuration.programs.join(", "));
    }
    if let Some(facts) = &configuration.facts {
        let place = if configuration.hosts > 1 { "on the hosts" } else { "on the host" };
        let facts: Vec<String> = facts
            .checks()
            .iter()
            .map(|(name, count)| {
                let (mark, color) =
                    if count.number == 0 { ("✓", Color::Green) } else { ("✗", Color::Red) };
                format!("{} {name} ({})", paint(mark, color), count.number)
            })
            .collect();
        println!("  {place}: {}", facts.join(", "));
    }
    if !configuration.log.is_empty() {
        let lines: Vec<&str> = configuration.log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(LOG_LINES)..];
        println!("  the end of the daemon's log:\n{}", indent(&indent(&tail.join("\n"))));
    }
}

fn check_is_of_host(check: &Check) -> bool {
    check.from == check.to
}

/// A table that fits the terminal, beside the indent.
fn table() -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic);
    if let Some(width) = table.width() {
        table.set_width(width.saturating_sub(2));
    }
    table
}

/// Who reached whom.
fn matrix(configuration: &Configuration) -> Table {
    let mut table = table();
    let corner = Cell::new("from ╲ to");
    table.set_header(
        [corner].into_iter().chain(configuration.columns.iter().map(Cell::new)).collect::<Vec<_>>(),
    );
    for row in &configuration.rows {
        let cells = configuration.columns.iter().map(|column| {
            let checks: Vec<&Check> = configuration
                .checks
                .iter()
                .filter(|check| check.from == *row && check.to == *column)
                .collect();
            cell(&checks)
        });
        table.add_row([Cell::new(row)].into_iter().chain(cells).collect::<Vec<_>>());
    }
    table
}

fn cell(checks: &[&Check]) -> Cell {
    if checks.is_empty() {
        return Cell::new("–").set_alignment(CellAlignment::Center).fg(Color::DarkGrey);
    }
    let mut text = String::new();
    for check in checks {
        text.push_str(match (&check.what, check.passed) {
            (What::Reach(_), true) => "✓",
            (What::Blocked(_), true) => "⊘",
            (What::Reach(_) | What::Blocked(_), false) => "✗",
            _ => "",
        });
    }
    let ping = checks.iter().find(|check| check.what == What::Reach(Protocol::Icmp));
    if let Some(time) = ping.and_then(|check| check.time) {
        let _ = write!(text, " {}", micros(time));
    }
    let passed = checks.iter().all(|check| check.passed);
    Cell::new(text).fg(if passed { Color::Green } else { Color::Red })
}

/// Which way took how many packets, and what was dropped.
fn carriers(configuration: &Configuration) -> Table {
    let mut table = table();
    table.set_header(["carried by netd", "packets", "bytes", "meaning"]);
    let row = |counter: &Counter, color: Option<Color>| {
        let name = Cell::new(&counter.name);
        vec![
            if let Some(color) = color { name.fg(color) } else { name },
            Cell::new(counter.packets).set_alignment(CellAlignment::Right),
            Cell::new(bytes(counter.bytes)).set_alignment(CellAlignment::Right),
            Cell::new(&counter.meaning),
        ]
    };
    for counter in &configuration.forwarded {
        table.add_row(row(counter, None));
    }
    for counter in &configuration.drops {
        let mut counter = counter.clone();
        counter.name = format!("dropped: {}", counter.name);
        table.add_row(row(&counter, Some(Color::Yellow)));
    }
    table
}

/// The last line.
pub(super) fn summary(report: &Report) {
    let (mark, word) = if report.passed() {
        (paint("✓", Color::Green), "pass")
    } else {
        (paint("✗", Color::Red), "FAIL")
    };
    let counted = |passed: bool| -> String {
        let numbers: Vec<String> = report
            .configurations
            .iter()
            .filter(|configuration| configuration.passed() == passed)
            .map(|configuration| configuration.number.to_string())
            .collect();
        numbers.join(", ")
    };
    let checks: usize = report.configurations.iter().map(|configuration| configuration.checks.len()).sum();
    let which = if report.passed() { counted(true) } else { counted(false) };
    if let Some(facts) = report.configurations.iter().find_map(|configuration| configuration.facts.as_ref()) {
        let how: Vec<&str> = facts.checks().iter().map(|(_, count)| count.how.as_str()).collect();
        println!("\nCounted on the host by: {}.", how.join("; "));
    }
    println!("\n{mark} configurations that {word}: {which} ({checks} checks in {:.1} s)", report.seconds);
}

/// The commands for a lab that was left up; on the standard error if the other one carries JSON.
pub(super) fn explore(scenes: &[Scene], world: &World, lab: &str, json: bool) {
    let mut text =
        String::from("\nThe network is still up, and its daemons run. To look around (as root):\n");
    let program =
        crate::lab::host::binary().map_or_else(|_| "netd".to_owned(), |path| path.display().to_string());
    for scene in scenes {
        for member in &scene.members {
            let host = &member.host;
            let _ = writeln!(text, "\n  # {}", host.name());
            let commands: &[&str] =
                if scene.members.len() > 1 { &["ls", "status", "nodes"] } else { &["ls", "status"] };
            for command in commands {
                let _ = writeln!(text, "  {program} --socket {} {command}", host.socket().display());
            }
            let _ = writeln!(text, "  nsenter --net={} ip -brief address", host.namespace.path().display());
            for container in member.containers.iter().take(1) {
                let path = container.namespace.path();
                let _ = writeln!(text, "  # {} on {}", container.name, host.name());
                let _ = writeln!(text, "  nsenter --net={} ping -c 3 {}", path.display(), container.gateway);
                for other in scene.neighbours(container) {
                    let _ = writeln!(text, "  nsenter --net={} ping -c 3 {}", path.display(), other.address);
                }
                let _ = writeln!(text, "  nsenter --net={} ping -c 3 {}", path.display(), world.address);
            }
            let _ = writeln!(
                text,
                "  nsenter --net={} tcpdump -ni {}",
                host.namespace.path().display(),
                world::UPLINK
            );
        }
    }
    let _ = writeln!(text, "\nTo remove all of it:\n\n  {program} demo --clean={lab}");
    if json {
        eprint!("{text}");
    } else {
        print!("{text}");
    }
}

fn micros(time: Duration) -> String {
    if time < Duration::from_millis(10) {
        format!("{} µs", time.as_micros())
    } else {
        format!("{} ms", time.as_millis())
    }
}

fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["B", "KiB", "MiB", "GiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// Joins, in lines that fit beside the tables.
fn wrap(parts: &[String], separator: &str) -> String {
    let mut text = String::new();
    let mut width = 0;
    for (index, part) in parts.iter().enumerate() {
        if index > 0 {
            let fits = width + part.len() < 100;
            text.push_str(if fits { separator } else { separator.trim_end() });
            if !fits {
                text.push('\n');
            }
            width = if fits { width + separator.len() } else { 0 };
        }
        text.push_str(part);
        width += part.len();
    }
    text
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}

/// Colours a mark, on a terminal only.
fn paint(text: &str, color: Color) -> String {
    let code = match color {
        Color::Green => 32,
        Color::Red => 31,
        _ => 90,
    };
    if stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none() {
        format!("\x1b[{code}m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}
