//! What the log says of records that do not count: each once, and not more than somebody reads.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    time::{Duration, Instant},
};

/// Records of which it is remembered what was said. More are forgotten, and said again: somebody fills etcd with nonsense.
const REMEMBERED: usize = 10_000;
/// Records that are spoken of in a [`MINUTE`].
const LINES: u32 = 200;
const MINUTE: Duration = Duration::from_secs(60);

/// Whether something is to be said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Say {
    It,
    /// That there is more than is said.
    TooMuch,
    Nothing,
}

/// What was said.
#[derive(Debug)]
pub(super) struct Notes {
    /// The revisions for which it was, by key: its hash, as keys may be long.
    said: HashMap<u64, i64>,
    hasher: RandomState,
    since: Instant,
    lines: u32,
}

impl Notes {
    pub(super) fn new() -> Self {
        Self { said: HashMap::new(), hasher: RandomState::new(), since: Instant::now(), lines: 0 }
    }

    /// Whether to say what is wrong with a key at a revision.
    pub(super) fn say(&mut self, key: &str, revision: i64) -> Say {
        let hash = self.hasher.hash_one(key);
        if self.said.get(&hash) == Some(&revision) {
            return Say::Nothing;
        }
        if self.since.elapsed() >= MINUTE {
            (self.since, self.lines) = (Instant::now(), 0);
        }
        self.lines = self.lines.saturating_add(1);
        if self.lines > LINES {
            return if self.lines == LINES + 1 { Say::TooMuch } else { Say::Nothing };
        }
        if self.said.len() >= REMEMBERED {
            self.said.clear();
        }
        self.said.insert(hash, revision);
        Say::It
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_once_and_not_without_end() {
        let mut notes = Notes::new();
        assert_eq!(notes.say("a", 1), Say::It);
        assert_eq!(notes.say("a", 1), Say::Nothing);
        assert_eq!(notes.say("a", 2), Say::It, "it has changed");
        let said: Vec<Say> = (0..1000).map(|number| notes.say(&number.to_string(), 1)).collect();
        assert_eq!(said.iter().filter(|say| **say == Say::It).count(), LINES as usize - 2);
        assert_eq!(said.iter().filter(|say| **say == Say::TooMuch).count(), 1);
    }
}
