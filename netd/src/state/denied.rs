//! The list of sources that are denied at the uplink.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use ipnet::IpNet;

use super::State;
use crate::{
    bpf::MAX_DENIED,
    request::{Refusal, parse_source},
    store::{Change, Kind, Record},
};

/// A source that is denied, with the number of its counter.
pub(crate) type Denied = (IpNet, u32);

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

    /// Adds sources; those that are there stay. Returns those that are new, and what to commit; [`Self::undo_deny`] takes them
    /// back.
    ///
    /// # Errors
    /// One is none, or there is no room: nothing is changed then.
    pub fn deny(&mut self, sources: &[String]) -> Result<(Vec<IpNet>, Vec<Change>), Refusal> {
        let sources = parse(sources)?;
        let (mut added, mut changes) = (Vec::new(), Vec::new());
        for source in sources {
            if self.denied.contains_key(&source) {
                continue;
            }
            let Some(slot) = self.denied_slots.take() else {
                self.undo_deny(&added);
                return Err(Refusal::Conflict(format!(
                    "the list of denied sources has room for {MAX_DENIED}: remove some, or deny a shorter prefix"
                )));
            };
            self.denied.insert(source, slot);
            added.push(source);
            changes.push(Change::put(Kind::Denied, &source.to_string(), &slot)?);
        }
        Ok((added, changes))
    }

    /// Adds sources that the programs know, with the numbers of their counters where those are free. Returns what to commit.
    ///
    /// # Errors
    /// There is no room.
    pub fn adopt_denied(&mut self, sources: &BTreeMap<IpNet, u32>) -> Result<Vec<Change>> {
        let new = sources.iter().filter(|(source, _)| !self.denied.contains_key(*source));
        let mut changes = Vec::new();
        for (source, slot) in new.map(|(source, slot)| (*source, *slot)).collect::<Vec<_>>() {
            let claimed = self.denied_slots.claim(slot).ok().map(|()| slot);
            let slot = claimed.or_else(|| self.denied_slots.take());
            let slot = slot.context("there is no room for more denied sources")?;
            self.denied.insert(source, slot);
            changes.push(Change::put(Kind::Denied, &source.to_string(), &slot)?);
        }
        Ok(changes)
    }

    /// Takes sources back that were added. Returns what to commit, if they were committed already.
    pub fn undo_deny(&mut self, added: &[IpNet]) -> Vec<Change> {
        for slot in added.iter().filter_map(|source| self.denied.remove(source)) {
            self.denied_slots.free(slot);
        }
        added.iter().map(deletion).collect()
    }

    /// Removes sources. Returns them with the numbers of their counters, and what to commit; [`Self::undo_allow`] puts them back.
    ///
    /// # Errors
    /// One is not in the list: nothing is changed then.
    pub fn allow(&mut self, sources: &[String]) -> Result<(Vec<Denied>, Vec<Change>), Refusal> {
        let sources = parse(sources)?;
        if let Some(missing) = sources.iter().find(|source| !self.denied.contains_key(*source)) {
            return Err(Refusal::NotFound(format!("{missing} is not denied: `netd deny ls` shows what is")));
        }
        let mut removed = Vec::with_capacity(sources.len());
        for source in &sources {
            if let Some(slot) = self.denied.remove(source) {
                self.denied_slots.free(slot);
                removed.push((*source, slot));
            }
        }
        Ok((removed, sources.iter().map(deletion).collect()))
    }

    /// Puts sources back whose removal could not be committed.
    pub fn undo_allow(&mut self, removed: Vec<Denied>) {
        for (source, slot) in removed {
            // Just freed, and nobody has asked since.
            let _ = self.denied_slots.claim(slot);
            self.denied.insert(source, slot);
        }
    }
}

fn deletion(source: &IpNet) -> Change {
    Change::delete(Kind::Denied, &source.to_string())
}

fn parse(sources: &[String]) -> Result<Vec<IpNet>, Refusal> {
    sources.iter().map(|source| parse_source(source).map_err(Refusal::Invalid)).collect()
}

#[cfg(test)]
mod tests {
    use std::{
        net::Ipv4Addr,
        time::{Duration, Instant},
    };

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
        let (added, changes) =
            state.deny(&list(&["203.0.113.7", "198.51.100.0/24", "2001:db8::/32"])).unwrap();
        assert_eq!((added.len(), changes.len()), (3, 3));
        let (added, changes) = state.deny(&list(&["203.0.113.7/32"])).unwrap();
        assert!(added.is_empty() && changes.is_empty(), "it is there already");
        assert_eq!(shown(&state), ["198.51.100.0/24", "203.0.113.7/32", "2001:db8::/32"]);

        let before = state.denied().clone();
        let (removed, _) = state.allow(&list(&["203.0.113.7"])).unwrap();
        assert_eq!(removed.len(), 1);
        state.undo_allow(removed);
        assert_eq!(state.denied(), &before);
        let (added, _) = state.deny(&list(&["203.0.113.7", "192.0.2.1"])).unwrap();
        assert_eq!(state.undo_deny(&added).len(), 1, "the one that is new");
        assert_eq!(state.denied(), &before);
        let mut slots: Vec<u32> = state.denied().values().copied().collect();
        state.deny(&list(&["192.0.2.1"])).unwrap();
        slots.extend(state.denied().get(&"192.0.2.1/32".parse().unwrap()));
        slots.sort_unstable();
        assert_eq!(slots, [0, 1, 2, 3], "each has a counter of its own");
    }

    /// Where each were compared with each, this would take minutes.
    #[test]
    fn a_full_list_is_refused_at_once() {
        let mut state = state();
        let all: Vec<String> =
            (0..MAX_DENIED).map(|n| Ipv4Addr::from_bits(0x0a00_0000 + n).to_string()).collect();
        let half = all.len() / 2;
        state.deny(&all[..half]).unwrap();
        let before = state.denied().clone();
        let too_many = [&all[half..], &list(&["192.0.2.1"])].concat();
        let started = Instant::now();
        let error = state.deny(&too_many).unwrap_err();
        assert!(error.to_string().contains("has room for 65536"), "{error}");
        assert_eq!(state.denied(), &before, "nothing is changed");
        let (_, changes) = state.deny(&all[half..]).unwrap();
        assert_eq!(changes.len(), all.len() - half, "what was taken back has its slots again");
        let (removed, _) = state.allow(&all).unwrap();
        state.undo_allow(removed);
        assert_eq!(state.denied().len(), all.len());
        assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
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
