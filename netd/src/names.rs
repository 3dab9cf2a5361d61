//! What may be a name, of an endpoint, a network or a node; and how a text of somebody else's is shown.

use std::fmt::{self, Write as _};

use thiserror::Error;

/// The longest name. The kernel's limit on a link's alias (256 bytes), which holds an endpoint's name, is well above.
pub const MAX_LENGTH: usize = 128;

/// Why something is not a name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NameError {
    /// Nothing at all.
    #[error("a name is at least one character long")]
    Empty,
    /// Longer than [`MAX_LENGTH`].
    #[error("`{}…` is too long: a name has at most {MAX_LENGTH} characters", Shown(.0))]
    TooLong(String),
    /// It begins with a character that may only follow.
    #[error("`{0}`: a name begins with a letter or a digit")]
    Start(String),
    /// It holds a character that names do not have.
    #[error("`{}` contains {character:?}: a name is made of letters, digits, `-`, `_` and `.`", Shown(name))]
    Character {
        /// The name, as given.
        name: String,
        /// The first character that is wrong.
        character: char,
    },
}

/// Checks a name: letters and digits of ASCII, and after the first character also `-`, `_` and `.`. So a name is one
/// segment of a URL, one field of a link's alias and one file name, with nothing to escape.
///
/// # Errors
/// Says what is wrong with it.
pub fn check(name: &str) -> Result<(), NameError> {
    let Some(first) = name.chars().next() else { return Err(NameError::Empty) };
    if name.chars().count() > MAX_LENGTH {
        return Err(NameError::TooLong(name.chars().take(20).collect()));
    }
    if let Some(character) = name.chars().find(|c| !c.is_ascii_alphanumeric() && !"-_.".contains(*c)) {
        return Err(NameError::Character { name: name.to_owned(), character });
    }
    if !first.is_ascii_alphanumeric() {
        return Err(NameError::Start(name.to_owned()));
    }
    Ok(())
}

/// A text that anybody may have written, in one line: what would begin another line, or change what a terminal shows, is
/// escaped. Of a long one, the beginning.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a>(pub &'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// Characters of it.
        const MOST: usize = 200;
        let mut characters = self.0.chars();
        escape(characters.by_ref().take(MOST), f)?;
        match characters.next() {
            Some(_) => f.write_char('…'),
            None => Ok(()),
        }
    }
}

/// The same of a text of any length.
#[must_use]
pub fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    // A string takes all that is written.
    let _ = escape(text.chars(), &mut line);
    line
}

fn escape(text: impl Iterator<Item = char>, to: &mut impl fmt::Write) -> fmt::Result {
    for character in text {
        if is_plain(character) {
            to.write_char(character)?;
        } else {
            write!(to, "{}", character.escape_default())?;
        }
    }
    Ok(())
}

/// Whether a character changes nothing but itself: no control character, no line of its own (U+2028, U+2029), no change of the
/// direction of writing (U+200E and its like).
fn is_plain(character: char) -> bool {
    let turns = matches!(character,
        '\u{61c}' | '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    !character.is_control() && !turns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "web-1", "9", "A.b_c", &"x".repeat(MAX_LENGTH)] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        assert_eq!(check(""), Err(NameError::Empty));
        assert!(matches!(check(&"x".repeat(MAX_LENGTH + 1)), Err(NameError::TooLong(_))));
        for start in ["-a", ".", "..", "_x"] {
            assert!(matches!(check(start), Err(NameError::Start(_))), "{start}");
        }
        for bad in ["a b", "a/b", "a:b", "ä", "a\n", "a\0"] {
            assert!(matches!(check(bad), Err(NameError::Character { .. })), "{bad:?}");
        }
    }

    #[test]
    fn a_name_is_shown_in_one_line() {
        for bad in
            ["a\nb", "\u{1b}[2J", "a\r", "a\u{85}", "a\u{2028}", "a\u{202e}b", &"\n".repeat(MAX_LENGTH + 1)]
        {
            let error = check(bad).unwrap_err().to_string();
            assert!(error.chars().all(is_plain), "{error:?}");
        }
        assert_eq!(Shown("a b\nä").to_string(), "a b\\nä");
        assert_eq!(one_line("a\u{1b}[0m\r\n"), "a\\u{1b}[0m\\r\\n");
        assert_eq!(Shown(&"x".repeat(1000)).to_string(), format!("{}…", "x".repeat(200)));
    }
}
