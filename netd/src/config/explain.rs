//! What is wrong with a configuration file, in one line: where, which key, and what was probably meant.

use std::ops::Range;

use anyhow::{Error, anyhow};
use toml::de::{DeTable, DeValue};

use crate::names;

/// Turns an error of the TOML reader into one line.
pub(super) fn explain(error: &toml::de::Error, text: &str) -> Error {
    // It quotes keys and values.
    anyhow!("{}", names::one_line(&describe(error, text)))
}

fn describe(error: &toml::de::Error, text: &str) -> String {
    let Some(span) = error.span() else { return one_line(error.message()) };
    let line = text.get(..span.start).map_or(1, |before| before.matches('\n').count() + 1);
    let key = DeTable::parse(text).ok().and_then(|table| key_at(table.get_ref(), &span));
    let in_line = format!("line {line}");
    if let Some((unknown, known)) = unknown_field(error.message()) {
        // The span of a table's header is that of its last part, which may lie below the unknown one.
        let mut key = key.unwrap_or_else(|| vec![unknown.to_owned()]);
        key.truncate(key.iter().position(|part| part == unknown).map_or(key.len(), |at| at + 1));
        return format!("{in_line}: unknown key `{}`: {}", key.join("."), suggestion(unknown, &known));
    }
    match key {
        Some(key) => format!("{in_line}: {}: {}", key.join("."), one_line(error.message())),
        None => format!("{in_line}: {}", one_line(error.message())),
    }
}

fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The path of the key that is at a span, or whose value is: the deepest one.
fn key_at(table: &DeTable<'_>, span: &Range<usize>) -> Option<Vec<String>> {
    let covers = |range: Range<usize>| range.start <= span.start && span.end <= range.end;
    table.iter().find_map(|(key, value)| {
        let name = key.get_ref();
        let below = match value.get_ref() {
            // A table's own span is that of its header; its keys lie behind.
            DeValue::Table(table) => key_at(table, span),
            _ => None,
        };
        match below {
            Some(mut below) => {
                below.insert(0, name.to_string());
                Some(below)
            }
            None => (covers(key.span()) || covers(value.span())).then(|| vec![name.to_string()]),
        }
    })
}

/// The unknown key and those that would have been known, out of serde's message (``unknown field `a`, expected one of
/// `b`, `c` ``).
fn unknown_field(message: &str) -> Option<(&str, Vec<&str>)> {
    let mut quoted = message.strip_prefix("unknown field ")?.split('`').skip(1).step_by(2);
    let unknown = quoted.next()?;
    Some((unknown, quoted.collect()))
}

fn suggestion(unknown: &str, known: &[&str]) -> String {
    let nearest =
        known.iter().map(|name| (distance(unknown, name), *name)).min_by_key(|(distance, _)| *distance);
    match nearest {
        // A third of the letters wrong is a typing error; more is another word.
        Some((distance, name)) if distance <= name.len().div_ceil(3) => format!("did you mean `{name}`?"),
        _ => format!("known here are {}", known.join(", ")),
    }
}

/// The edit distance (Levenshtein), with `-` and `_` as the same letter.
fn distance(a: &str, b: &str) -> usize {
    let letters =
        |text: &str| text.to_lowercase().chars().map(|c| if c == '_' { '-' } else { c }).collect::<Vec<_>>();
    let (a, b) = (letters(a), letters(b));
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (a, b, expected) in
            [("", "abc", 3), ("uplink", "upink", 1), ("max_flows", "max-flows", 0), ("abc", "cba", 2)]
        {
            assert_eq!(distance(a, b), expected, "{a} {b}");
            assert_eq!(distance(b, a), expected, "{b} {a}");
        }
    }
}
