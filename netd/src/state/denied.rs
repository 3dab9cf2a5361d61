//! The list of sources that are denied at the uplink.

use std::collections::{BTreeMap, HashSet};

use anyhow::{Context, Result};
use ipnet::IpNet;

use super::State;
use crate::{
    bpf::MAX_DENIED,
    request::{Refusal, parse_source},
    store::{Change, Kind, Record},
};

impl State {
    /// Takes in what the store has of the list.
    ///
    /// # Errors
    /// The records do not fit together.
    pub(super) fn load_denied(&mut self, records: &[Record]) -> Result<()> {
        for record in records.iter().filter(|record| record.kind == Kind::Denied) {
            let what = || format!("denied source {} of the stored state", record.name);
            let source: IpNet = record.name.parse().with_context(what)?;
            let slot = record.read()?;
            self.denied_slots.claim(slot).with_context(what)?;
            self.denied.insert(source, slot);
        }
        Ok(())
    }

    /// The sources, with the numbers of their counters.
    #[must_use]
    pub fn denied(&self) -> &BTreeMap<IpNet, u32> {
        &self.denied
    }

    /// Adds sources; those that are there stay. Returns what to commit; [`Self::undo_denied`] takes it back.
    ///
    /// # Errors
    /// One is none, or there is no room: nothing is changed then.
    pub fn deny(&mut self, sources: &[String]) -> Result<Vec<Change>, Refusal> {
        let sources = parse(sources)?;
        let before = self.denied.clone();
        let mut changes = Vec::new();
        for source in sources {
            if self.denied.contains_key(&source) {
                continue;
            }
            let Some(slot) = self.denied_slots.take() else {
                self.undo_denied(before);
                return Err(Refusal::Conflict(format!(
                    "the list of denied sources has room for {MAX_DENIED}: remove some, or deny a shorter prefix"
                )));
            };
            self.denied.insert(source, slot);
            changes.push(Change::put(Kind::Denied, &source.to_string(), &slot)?);
        }
        Ok(changes)
    }

    /// Removes sources. Returns what to commit.
    ///
    /// # Errors
    /// One is not in the list: nothing is changed then.
    pub fn allow(&mut self, sources: &[String]) -> Result<Vec<Change>, Refusal> {
        let sources = parse(sources)?;
        if let Some(missing) = sources.iter().find(|source| !self.denied.contains_key(*source)) {
            return Err(Refusal::NotFound(format!("{missing} is not denied: `netd deny ls` shows what is")));
        }
        for source in &sources {
            if let Some(slot) = self.denied.remove(source) {
                self.denied_slots.free(slot);
            }
        }
        Ok(sources.iter().map(|source| Change::delete(Kind::Denied, &source.to_string())).collect())
    }

    /// Makes the list again what it was before a change that could not be committed.
    pub fn undo_denied(&mut self, before: BTreeMap<IpNet, u32>) {
        let slots = |list: &BTreeMap<IpNet, u32>| list.values().copied().collect::<HashSet<u32>>();
        let (had, has) = (slots(&before), slots(&self.denied));
        for slot in has.difference(&had) {
            self.denied_slots.free(*slot);
        }
        for slot in had.difference(&has) {
            // Just freed, and nobody has asked since.
            let _ = self.denied_slots.claim(*slot);
        }
        self.denied = before;
    }
}

fn parse(sources: &[String]) -> Result<Vec<IpNet>, Refusal> {
    sources.iter().map(|source| parse_source(source).map_err(Refusal::Invalid)).collect()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::state::{Facts, Share};

    fn state() -> State {
        let facts = Facts {
            identity: String::new(),
            boot: String::new(),
            ports: (49152, 65535),
            next_network: 1,
            id: String::new(),
            before: None,
        };
        State::new(facts, Share::Fixed(Vec::new()))
    }

    fn list(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    fn shown(state: &State) -> Vec<String> {
        state.denied().keys().map(ToString::to_string).collect()
    }

    #[test]
    fn sources_come_and_go() {
        let mut state = state();
        let changes = state.deny(&list(&["203.0.113.7", "198.51.100.0/24", "2001:db8::/32"])).unwrap();
        assert_eq!(changes.len(), 3);
        assert!(state.deny(&list(&["203.0.113.7/32"])).unwrap().is_empty(), "it is there already");
        assert_eq!(shown(&state), ["198.51.100.0/24", "203.0.113.7/32", "2001:db8::/32"]);

        let before = state.denied().clone();
        state.allow(&list(&["203.0.113.7"])).unwrap();
        state.undo_denied(before.clone());
        assert_eq!(state.denied(), &before);
        state.deny(&list(&["192.0.2.1"])).unwrap();
        state.undo_denied(before.clone());
        assert_eq!(state.denied(), &before);
        let mut slots: Vec<u32> = state.denied().values().copied().collect();
        state.deny(&list(&["192.0.2.1"])).unwrap();
        slots.extend(state.denied().get(&"192.0.2.1/32".parse().unwrap()));
        slots.sort_unstable();
        assert_eq!(slots, [0, 1, 2, 3], "each has a counter of its own");
    }

    #[test]
    fn a_full_list_takes_no_more_and_loses_nothing() {
        let mut state = state();
        let sources = |from: u32, count: u32| -> Vec<String> {
            (from..from + count).map(|number| Ipv4Addr::from(0x0b00_0000 + number).to_string()).collect()
        };
        state.deny(&sources(0, MAX_DENIED - 1)).unwrap();
        let before = state.denied().clone();
        let refused = state.deny(&sources(MAX_DENIED, 2)).unwrap_err().to_string();
        assert!(
            refused.starts_with(&format!("the list of denied sources has room for {MAX_DENIED}")),
            "{refused}"
        );
        assert_eq!(state.denied(), &before);
        // A list that is another altogether, and one that is empty, are undone too.
        state.allow(&sources(0, MAX_DENIED - 1)).unwrap();
        state.undo_denied(before.clone());
        assert_eq!(state.denied(), &before);
        state.deny(&sources(MAX_DENIED, 1)).unwrap();
        state.deny(&sources(MAX_DENIED + 1, 1)).unwrap_err();
    }

    #[test]
    fn nothing_is_done_by_halves() {
        let mut state = state();
        for (sources, expected) in [
            (
                &["192.0.2.1", "192.0.2.1/24"][..],
                "192.0.2.1/24 has host bits set: did you mean 192.0.2.0/24?",
            ),
            (&["192.0.2.1", "example"], "`example` is no address and no prefix such as 203.0.113.0/24"),
            (&["192.0.2.1", "0.0.0.0/0"], "0.0.0.0/0 is everybody: that would cut this host off"),
        ] {
            assert_eq!(state.deny(&list(sources)).unwrap_err().to_string(), expected);
            assert!(state.denied().is_empty(), "{expected}");
        }
        state.deny(&list(&["192.0.2.1"])).unwrap();
        let error = state.allow(&list(&["192.0.2.1", "192.0.2.2"])).unwrap_err();
        assert_eq!(error.to_string(), "192.0.2.2/32 is not denied: `netd deny ls` shows what is");
        assert_eq!(shown(&state), ["192.0.2.1/32"]);
    }
}
