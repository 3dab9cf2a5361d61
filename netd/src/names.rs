//! What may be a name, of an endpoint, a network or a node.

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
    #[error("`{0}…` is too long: a name has at most {MAX_LENGTH} characters")]
    TooLong(String),
    /// It begins with a character that may only follow.
    #[error("`{0}`: a name begins with a letter or a digit")]
    Start(String),
    /// It holds a character that names do not have.
    #[error("`{name}` contains {character:?}: a name is made of letters, digits, `-`, `_` and `.`")]
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
}
