//! What is done beside the task that owns the state because it takes long: links are deleted, flow tables are walked. What it
//! comes to returns to that task, which waits for none of it.

use std::{
    collections::{HashMap, HashSet},
    mem,
};

use anyhow::{Error, Result, anyhow};
use tokio::{sync::mpsc, task::spawn_blocking};
use tracing::{info, warn};

use super::{
    handle::{Reply, Request},
    owner::Owner,
    requests::answer,
};
use crate::{
    bpf::FlowsOf,
    endpoint::Endpoint,
    holders::{Holder, find_holders},
    netlink::Netlink,
    network::Definition,
    node::Occupied,
    publish::HostPort,
    reconcile::{TornDown, remove_link},
    request::{EndpointView, Flushed, NetworkView, Refusal},
    store::{Change, Kind},
};

/// Something that was done beside the owner of the state.
pub(super) enum Done {
    /// The link of an endpoint that is gone is deleted, as far as that could be.
    Unlinked(Box<Leaving>),
    /// Flows are removed: how many for each of these, or why they are not.
    Walked(Vec<Removal>, Result<Vec<usize>>),
    /// It is known who has ports that are to be held.
    Holders(Vec<(HostPort, Holder)>),
    /// It is known what is in the way of a network that somebody wants.
    Room(Result<Occupied>, Definition, Reply<NetworkView>),
}

/// An endpoint that nobody reaches any more, on its way out: its slot and its addresses are taken still.
pub(super) struct Leaving {
    endpoint: Endpoint,
    link: Option<u32>,
    errors: Vec<Error>,
    reply: Option<Reply<()>>,
}

/// Flows that are to be removed, and what then.
pub(super) struct Removal {
    which: FlowsOf,
    then: Then,
}

enum Then {
    Release(Box<Leaving>),
    Unpublished(Box<EndpointView>, Reply<EndpointView>),
    Flushed(Reply<Flushed>),
    /// Says in the log why they went.
    Say(String),
    Nothing,
}

/// What is under way.
pub(super) struct Work {
    sender: mpsc::UnboundedSender<Done>,
    /// Taken by whoever listens.
    pub(super) done: Option<mpsc::UnboundedReceiver<Done>>,
    /// Flows that are to be removed by the next walk: one for all of them.
    removals: Vec<Removal>,
    walking: bool,
    /// Whether somebody finds out who has ports.
    asking: bool,
    /// How many endpoints are on their way out.
    leaving: usize,
    /// Requests that may need what those still have.
    waiting: Vec<Request>,
}

impl Work {
    pub(super) fn new() -> Self {
        let (sender, done) = mpsc::unbounded_channel();
        let (removals, waiting) = (Vec::new(), Vec::new());
        Self { sender, done: Some(done), removals, walking: false, asking: false, leaving: 0, waiting }
    }

    /// Whether something that is still taken will be free in a moment.
    pub(super) fn is_freeing(&self) -> bool {
        self.leaving > 0
    }

    /// Finds out who has ports, if that is not under way.
    pub(super) fn find_holders(&mut self, ports: Vec<HostPort>) {
        if mem::replace(&mut self.asking, true) {
            return;
        }
        let sender = self.sender.clone();
        spawn_blocking(move || drop(sender.send(Done::Holders(find_holders(&ports)))));
    }

    /// Finds out what of the host's addresses and routes is in the way of a network.
    pub(super) fn look_for_room(
        &self,
        nl: &Netlink,
        identity: &str,
        definition: Definition,
        reply: Reply<NetworkView>,
    ) {
        let (nl, identity, sender) = (nl.clone(), identity.to_owned(), self.sender.clone());
        tokio::spawn(async move {
            let occupied = Occupied::observe(&nl, &identity).await;
            let _ = sender.send(Done::Room(occupied, definition, reply));
        });
    }

    /// Keeps a request until what is being freed is free.
    pub(super) fn postpone(&mut self, request: Request) {
        self.waiting.push(request);
    }
}

impl Owner {
    /// Sees an endpoint out that was taken out of the datapath: deletes its link, then its flows, and then frees what it had.
    pub(super) fn leave(&mut self, endpoint: Endpoint, torn: TornDown, reply: Option<Reply<()>>) {
        self.work.leaving += 1;
        let (nl, sender) = (self.kernel.netlink().clone(), self.work.sender.clone());
        tokio::spawn(async move {
            let TornDown { link, mut errors } = torn;
            if let Some(link) = link {
                errors.extend(remove_link(&nl, &endpoint, link).await.err());
            }
            let _ = sender.send(Done::Unlinked(Box::new(Leaving { endpoint, link, errors, reply })));
        });
    }

    /// Removes flows of ports that an endpoint publishes no more.
    pub(super) fn remove_flows_of_ports(
        &mut self,
        which: FlowsOf,
        answer: Option<(EndpointView, Reply<EndpointView>)>,
    ) {
        let then =
            answer.map_or(Then::Nothing, |(endpoint, reply)| Then::Unpublished(Box::new(endpoint), reply));
        self.remove_flows(which, then);
    }

    /// Removes flows that somebody wants to be gone.
    pub(super) fn flush(&mut self, which: FlowsOf, reply: Reply<Flushed>) {
        self.remove_flows(which, Then::Flushed(reply));
    }

    /// Removes flows of addresses that the host has no longer.
    pub(super) fn remove_stale_flows(&mut self) {
        for (which, why) in self.kernel.take_stale() {
            self.remove_flows(which, Then::Say(why));
        }
    }

    fn remove_flows(&mut self, which: FlowsOf, then: Then) {
        self.work.removals.push(Removal { which, then });
        self.walk();
    }

    /// Removes the flows that are to be removed, by one walk beside this task, if none is under way: what comes meanwhile is
    /// the next one's.
    pub(super) fn walk(&mut self) {
        if self.work.walking || self.work.removals.is_empty() {
            return;
        }
        self.work.walking = true;
        let removals = mem::take(&mut self.work.removals);
        let (remover, sender) = (self.kernel.datapath().flow_remover(), self.work.sender.clone());
        spawn_blocking(move || {
            let which: Vec<FlowsOf> = removals.iter().map(|removal| removal.which.clone()).collect();
            let removed = remover.and_then(|remover| remover.remove(&which));
            let _ = sender.send(Done::Walked(removals, removed));
        });
    }

    /// Takes in what was done.
    pub(super) async fn take_in_work(&mut self, done: Done) {
        match done {
            Done::Unlinked(leaving) => self.unlinked(leaving).await,
            Done::Walked(removals, removed) => self.walked(removals, removed).await,
            Done::Holders(holders) => {
                self.work.asking = false;
                self.take_in_holders(holders);
            }
            Done::Room(Ok(occupied), definition, reply) => {
                self.create_beside(occupied, definition, reply).await;
            }
            Done::Room(Err(error), _, reply) => answer(reply, Err(error.into())),
        }
    }

    /// Takes in which links of detached endpoints are gone, where that may not have been announced.
    pub(super) async fn forget_links_that_left(&mut self) {
        match self.kernel.netlink().links().await {
            Ok(links) => {
                let there = links.iter().map(|link| link.ifindex).collect();
                self.pending.extend(gone(&mut self.leaving, &there));
            }
            Err(error) => warn!("cannot look for links of detached endpoints: {error:#}"),
        }
    }

    async fn unlinked(&mut self, mut leaving: Box<Leaving>) {
        if let Some(link) = leaving.link {
            leaving.errors.extend(self.kernel.forget_link(link).err());
        }
        let slot = leaving.endpoint.slot;
        // No program runs on its link any more, so no flow comes after this look.
        if self.kernel.datapath().has_flows(slot).unwrap_or(true) {
            self.remove_flows(FlowsOf::endpoint(slot), Then::Release(leaving));
        } else {
            self.release(leaving).await;
        }
    }

    async fn walked(&mut self, removals: Vec<Removal>, removed: Result<Vec<usize>>) {
        self.work.walking = false;
        match removed {
            Ok(counts) => {
                for (removal, removed) in removals.into_iter().zip(counts) {
                    match removal.then {
                        Then::Release(leaving) => self.release(leaving).await,
                        Then::Unpublished(endpoint, reply) => drop(reply.send(Ok(*endpoint))),
                        Then::Flushed(reply) => {
                            info!("{removed} flows flushed");
                            drop(reply.send(Ok(Flushed { removed })));
                        }
                        Then::Say(why) if removed > 0 => info!("{why}: {removed} flows are gone"),
                        Then::Say(_) | Then::Nothing => {}
                    }
                }
                self.note("removal of flows", Ok(()));
                self.walk();
            }
            // Tried again in some seconds; nobody waits for that.
            Err(error) => {
                let refusal = || Refusal::Failed(anyhow!("cannot remove flows: {error:#}"));
                for Removal { which, then } in removals {
                    let then = match then {
                        Then::Release(mut leaving) => {
                            if let Some(reply) = leaving.reply.take() {
                                let _ = reply.send(Err(refusal()));
                            }
                            Then::Release(leaving)
                        }
                        Then::Unpublished(_, reply) => {
                            let _ = reply.send(Err(refusal()));
                            Then::Nothing
                        }
                        Then::Flushed(reply) => {
                            let _ = reply.send(Err(refusal()));
                            continue;
                        }
                        then @ (Then::Say(_) | Then::Nothing) => then,
                    };
                    self.work.removals.push(Removal { which, then });
                }
                self.note("removal of flows", Err(error));
                self.serve_waiting().await;
            }
        }
    }

    /// Frees what an endpoint had that nothing of is left.
    async fn release(&mut self, mut leaving: Box<Leaving>) {
        let endpoint = &leaving.endpoint;
        leaving.errors.extend(self.kernel.reset_counters(endpoint.slot).err());
        self.pending.extend(self.state.release(endpoint));
        let result = reported(&endpoint.name, &leaving.errors);
        match (leaving.reply, result) {
            (Some(reply), result) => drop(reply.send(result)),
            (None, Err(error)) => warn!("{error}"),
            (None, Ok(())) => {}
        }
        self.work.leaving -= 1;
        self.serve_waiting().await;
        self.flush_pending().await;
    }

    async fn serve_waiting(&mut self) {
        for request in mem::take(&mut self.work.waiting) {
            // In a box, since what it leads to may lead here again.
            Box::pin(self.serve_at_last(request)).await;
        }
    }
}

/// Takes those links out that are not there. Returns what to commit.
fn gone(leaving: &mut HashMap<u32, String>, there: &HashSet<u32>) -> Vec<Change> {
    let left = leaving.extract_if(|link, _| !there.contains(link));
    left.map(|(_, name)| Change::delete(Kind::Leaving, &name)).collect()
}

/// What the removal of an endpoint comes to.
fn reported(name: &str, errors: &[Error]) -> Result<(), Refusal> {
    if errors.is_empty() {
        return Ok(());
    }
    let errors: Vec<String> = errors.iter().map(|error| format!("{error:#}")).collect();
    Err(Refusal::Failed(anyhow!(
        "endpoint `{name}` is detached, but something of it is left until netd starts again: {}",
        errors.join("; ")
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_that_are_gone_without_a_word_are_forgotten() {
        let mut leaving = HashMap::from([(3, "a".to_owned()), (4, "b".to_owned()), (5, "c".to_owned())]);
        let mut changes: Vec<String> =
            gone(&mut leaving, &HashSet::from([1, 4])).iter().map(|change| format!("{change:?}")).collect();
        changes.sort();
        let expected = ["a", "c"].map(|name| format!("{:?}", Change::delete(Kind::Leaving, name)));
        assert_eq!(changes, expected);
        assert_eq!(leaving, HashMap::from([(4, "b".to_owned())]));
        assert!(gone(&mut leaving, &HashSet::from([4])).is_empty());
    }
}
