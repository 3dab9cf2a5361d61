//! Several nodes at one etcd that is a table: whatever they do in whatever order, on whatever old knowledge, in the end each
//! has what it wants, and nothing was given twice.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::cluster::etcd::{
    keys::Key,
    plan::next,
    step::{Guard, Step},
};

/// What etcd has: values with their revisions and leases.
#[derive(Default)]
struct Store {
    revision: i64,
    records: BTreeMap<String, (Vec<u8>, i64, i64)>,
}

impl Store {
    /// A transaction, as etcd takes it. Whether it has happened.
    fn take(&mut self, step: &Step) -> bool {
        let of = |key: &str| self.records.get(key).map_or((0, 0), |(_, revision, lease)| (*revision, *lease));
        let holds = step.guards.iter().all(|guard| match guard {
            Guard::Revision(key, revision) => of(key).0 == *revision,
            Guard::Lease(key, lease) => self.records.contains_key(key) && of(key).1 == *lease,
            Guard::Unchanged(below, revision) => {
                let mut changed = self.records.iter().filter(|(key, _)| key.starts_with(below));
                changed.all(|(_, (_, changed, _))| changed <= revision)
            }
        });
        if !holds {
            return false;
        }
        self.revision += 1;
        for write in &step.writes {
            match write {
                Write::Put(key, value, lease) => {
                    self.records.insert(key.clone(), (value.clone(), self.revision, *lease));
                }
                Write::Delete(key) => drop(self.records.remove(key)),
                Write::DeleteBelow(below) => self.records.retain(|key, _| !key.starts_with(below.as_str())),
            }
        }
        true
    }

    /// What one sees who reads it.
    fn model(&self) -> Model {
        let mut model = Model::default();
        model.revision = self.revision;
        for (key, (value, revision, lease)) in &self.records {
            let version = Version { created: *revision, revision: *revision, lease: *lease };
            model.put(key, value, version).unwrap();
        }
        model
    }
}

/// A node and what it has last seen.
struct Player {
    me: Me,
    wanted: Announcement,
    seen: Model,
}

impl Player {
    fn new(number: u8, networks: &[(&str, &str, Option<u32>)]) -> Self {
        let mut me = me(&format!("node-{number}"));
        me.leases = vec![i64::from(number) + 1];
        let wanted = announcement(&format!("192.0.2.{}", number + 1), networks);
        Self { me, wanted, seen: Model::default() }
    }

    /// Does what comes next by what it knows. Whether there was anything to do.
    fn act(&self, store: &mut Store) -> bool {
        let plan = next(&self.seen, &self.seen.cluster().0, &self.me, &self.wanted);
        plan.step.is_some_and(|step| {
            store.take(&step);
            true
        })
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn nothing_is_given_twice(turns in prop::collection::vec((0_usize..4, any::<bool>()), 0..120)) {
        // The same networks, one under another number on each; and slices for exactly as many as there are.
        let mut players: Vec<Player> = (0..4)
            .map(|number: u8| {
                let known = Some(u32::from(number) + 1);
                Player::new(number, &[("a", "10.88.0.0/28", known), ("b", "10.89.0.0/28", None)])
            })
            .collect();
        for player in &mut players {
            for (definition, _) in &mut player.wanted.networks {
                definition.slice = Some(30);
            }
        }
        let mut store = Store::default();
        for (index, looks) in turns {
            if looks {
                players[index].seen = store.model();
            }
            players[index].act(&mut store);
        }
        // Whoever looks now comes to an end.
        let mut rounds = 0;
        loop {
            let mut acted = false;
            for player in &mut players {
                player.seen = store.model();
                acted |= player.act(&mut store);
            }
            if !acted {
                break;
            }
            rounds += 1;
            prop_assert!(rounds < 20, "they never come to an end");
        }
        let (cluster, problems) = store.model().cluster();
        prop_assert_eq!(problems, vec![]);
        prop_assert_eq!((cluster.networks.len(), cluster.nodes.len(), cluster.slices.len()), (2, 4, 8));
        for player in &mut players {
            player.seen = store.model();
            prop_assert!(!player.act(&mut store), "{} is not done", player.me.node);
            let own = cluster.slices.values().filter(|slice| slice.node == player.me.node);
            let networks: BTreeSet<&str> = own.map(|slice| slice.network.as_str()).collect();
            prop_assert_eq!(networks.len(), 2);
        }
        prop_assert!(store.records.contains_key(&Key::LastNetwork.to_string()));
    }
}
