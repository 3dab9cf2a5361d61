//! Tables for people: aligned columns without lines.

use comfy_table::{CellAlignment, Table, presets::NOTHING};

/// A table with a heading for each column; those in `numbers` are aligned to the right.
pub(super) fn table(headings: &[&str], numbers: &[usize]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(headings.iter().map(|heading| heading.to_uppercase()));
    finish(&mut table, numbers);
    table
}

/// A table without headings: two columns, what and how much.
pub(super) fn list() -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table
}

fn finish(table: &mut Table, numbers: &[usize]) {
    for (at, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if numbers.contains(&at) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

/// A table's text, without the blanks that pad the last column.
pub(super) fn text(table: &Table) -> String {
    table.lines().map(|line| line.trim().to_owned()).collect::<Vec<_>>().join("\n")
}

/// A number of bytes for people: `17`, `1.5K`, `23M`.
pub(super) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["K", "M", "G", "T", "P", "E"];
    if bytes < 1024 {
        return bytes.to_string();
    }
    let mut value = bytes as f64;
    let mut unit = "";
    for next in UNITS {
        // Rounded, 1023.9K would be 1024K.
        if value < 1023.5 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if value < 9.95 { format!("{value:.1}{unit}") } else { format!("{value:.0}{unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (size, expected) in [
            (0, "0"),
            (1023, "1023"),
            (1024, "1.0K"),
            (1536, "1.5K"),
            (10 * 1024, "10K"),
            (1024 * 1024 - 1, "1.0M"),
            (u64::MAX, "16E"),
        ] {
            assert_eq!(bytes(size), expected, "{size}");
        }
    }

    #[test]
    fn aligned() {
        let mut table = table(&["name", "packets"], &[1]);
        table.add_row(["web", "5"]);
        table.add_row(["database", "12345"]);
        assert_eq!(text(&table), "NAME      PACKETS\nweb             5\ndatabase    12345");
    }
}
