//! What is asked of this node for the cluster, and how it is done, step by step.

use super::{
    keys::{Key, NodeRecord},
    model::Model,
    plan::{self, Me},
    step::{Guard, Step},
    stored::Stored,
};
use crate::{
    cluster::{Cluster, SharedNetwork},
    network::Definition,
    pair,
    request::Refusal,
};

/// Slices that go in one transaction: etcd takes 128 operations.
const BATCH: usize = 100;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Goal {
    /// A network.
    CreateNetwork(Definition),
    /// No network of that name.
    RemoveNetwork(String),
    /// No slices of a node that is not there.
    RemoveNode(String),
    /// Neither this node's registration nor its slices.
    Leave,
}

/// What comes next.
#[derive(Debug)]
pub(super) enum Next {
    /// A step that is not the last.
    Step(Step),
    /// The step after which all is done, and the network that it creates.
    Last(Step, Option<SharedNetwork>),
    /// Nothing: all is done.
    Done(Option<SharedNetwork>),
    /// Nothing: it cannot be.
    Refused(Refusal),
}

impl Goal {
    /// What is done next. `tried`: a step of it may have happened already, though nobody has said so.
    pub(super) fn next(&self, model: &Model, cluster: &Cluster, me: &Me, tried: bool) -> Next {
        match self {
            Self::CreateNetwork(definition) => create(definition, model, cluster, me, tried),
            Self::RemoveNetwork(name) => remove_network(name, model, me, tried),
            Self::RemoveNode(name) => remove_node(name, model, tried),
            Self::Leave => leave(model, me),
        }
    }
}

fn create(definition: &Definition, model: &Model, cluster: &Cluster, me: &Me, tried: bool) -> Next {
    let name = &definition.name;
    if let Some(shared) = cluster.networks.get(name) {
        return match tried && shared.is(definition) {
            true => Next::Done(Some(shared.clone())),
            false => conflict(format!(
                "network `{name}` exists already in the cluster ({})",
                pair::text(shared.subnet, shared.subnet6)
            )),
        };
    }
    if let Some(overlap) = plan::overlapping(cluster, definition) {
        return conflict(overlap);
    }
    if model.networks.contains_key(name) {
        return conflict(format!(
            "what etcd has of network `{name}` does not count: `netd network rm {name}` removes it"
        ));
    }
    match plan::create(model, me, definition, None) {
        Some((step, shared)) => Next::Last(step, Some(shared)),
        None => conflict(plan::NO_NUMBER.to_owned()),
    }
}

fn remove_network(name: &str, model: &Model, me: &Me, tried: bool) -> Next {
    let Some(stored) = model.networks.get(name) else {
        return match tried {
            true => Next::Done(None),
            false => not_found(format!("no network `{name}` in the cluster: `netd network ls` shows all")),
        };
    };
    let uses = |(node, stored): (&String, &Stored<NodeRecord>)| {
        let record = stored.record.as_ref()?;
        (*node != me.node && record.registration.uses.contains(name)).then(|| format!("`{node}`"))
    };
    let users: Vec<String> = model.nodes.iter().filter_map(uses).collect();
    if !users.is_empty() {
        return conflict(format!(
            "network `{name}` is used on node {}: detach its endpoints there, or remove it from the configuration",
            list(&users)
        ));
    }
    let key = Key::Network(name.to_owned());
    let step = Step::default()
        .at(&key, stored.revision)
        // No node begins to use it meanwhile.
        .when(Guard::Unchanged(Key::NODES, model.revision))
        .delete(&key)
        .delete_below(Key::slices(name));
    Next::Last(step, None)
}

/// The first few.
fn list(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let shown = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().checked_sub(SHOWN) {
        None | Some(0) => shown,
        Some(more) => format!("{shown} and {more} more"),
    }
}

fn remove_node(name: &str, model: &Model, tried: bool) -> Next {
    let key = Key::Node(name.to_owned());
    let start = match model.nodes.get(name) {
        Some(stored) => match &stored.record {
            Some(node) if stored.wrong.is_none() => {
                let address = node.registration.address;
                return conflict(format!("node `{name}` is there ({address}): stop its netd first"));
            }
            _ => Step::default().at(&key, stored.revision).delete(&key),
        },
        None => Step::default().at(&key, 0),
    };
    release(name, model, start).unwrap_or_else(|| match tried {
        true => Next::Done(None),
        false => not_found(format!("no node `{name}` in the cluster: `netd nodes` shows all")),
    })
}

fn leave(model: &Model, me: &Me) -> Next {
    let key = me.key();
    let start = match model.nodes.get(&me.node) {
        // The slices are the other node's too.
        Some(stored) if !me.owns(stored, None) => return Next::Done(None),
        Some(stored) => Step::default().at(&key, stored.revision).delete(&key),
        None => Step::default().at(&key, 0),
    };
    release(&me.node, model, start).unwrap_or(Next::Done(None))
}

/// Frees slices of a node, with what else is in `step`. None: there is nothing to do.
fn release(node: &str, model: &Model, mut step: Step) -> Option<Next> {
    let mut slices = model.slices.iter().flat_map(|(network, slices)| {
        let own = slices
            .iter()
            .filter(|(_, stored)| stored.record.as_ref().is_some_and(|record| record.node == node));
        own.map(|(slice, stored)| (Key::Slice(network.clone(), *slice), stored.revision))
    });
    for (key, revision) in slices.by_ref().take(BATCH) {
        step = step.at(&key, revision).delete(&key);
    }
    if step.writes.is_empty() {
        return None;
    }
    Some(match slices.next() {
        Some(_) => Next::Step(step),
        None => Next::Last(step, None),
    })
}

fn conflict(why: String) -> Next {
    Next::Refused(Refusal::Conflict(why))
}

fn not_found(why: String) -> Next {
    Next::Refused(Refusal::NotFound(why))
}
