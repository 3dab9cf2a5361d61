//! Endpoints that do not work, and when each is set up again. Each has a pause of its own after a repair that doubles with every
//! one: neither one that cannot be repaired nor a container that deletes its link in a loop keeps the daemon busy.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Error, Result};
use tokio::time::Instant;
use tracing::{info, warn};

use super::owner::Owner;
use crate::{
    endpoint::Endpoint,
    reconcile::{Patience, network_of},
};

/// How long after a repair there is none, the first time and at most.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(60)];

/// Endpoints that do not work, or did not until a while ago.
#[derive(Debug, Default)]
pub(super) struct Repairs(BTreeMap<String, Repair>);

#[derive(Debug)]
struct Repair {
    /// Why it does not work; none: it does.
    problem: Option<String>,
    /// Until when it is not repaired.
    until: Instant,
    /// How long after its next repair there is none.
    pause: Duration,
}

impl Repair {
    fn new(now: Instant) -> Self {
        Self { problem: None, until: now, pause: PAUSES[0] }
    }
}

impl Repairs {
    /// Endpoints that did not come up.
    pub(super) fn after_start(broken: BTreeMap<String, Error>) -> Self {
        let mut repairs = Self::default();
        for (name, error) in broken {
            repairs.repaired(&name, &Err(error));
        }
        repairs
    }

    /// An endpoint does not work. Whether that is new.
    pub(super) fn breaks(&mut self, name: &str, why: &str) -> bool {
        let repair = self.0.entry(name.to_owned()).or_insert_with(|| Repair::new(Instant::now()));
        let is_new = repair.problem.is_none();
        if is_new {
            repair.problem = Some(why.to_owned());
        }
        is_new
    }

    /// An endpoint was repaired, or could not be. Whether that is news.
    pub(super) fn repaired(&mut self, name: &str, result: &Result<()>) -> bool {
        let now = Instant::now();
        let repair = self.0.entry(name.to_owned()).or_insert_with(|| Repair::new(now));
        let problem = result.as_ref().err().map(|error| format!("{error:#}"));
        let is_news = repair.problem != problem;
        *repair = Repair {
            problem,
            until: now + repair.pause,
            pause: (2 * repair.pause).clamp(PAUSES[0], PAUSES[1]),
        };
        is_news
    }

    /// An endpoint is no more.
    pub(super) fn forget(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// Forgets those that have worked for a while.
    pub(super) fn calm_down(&mut self) {
        let now = Instant::now();
        self.0.retain(|_, repair| repair.problem.is_some() || now < repair.until + PAUSES[1]);
    }

    /// When the next is to be repaired, and which.
    pub(super) fn next(&self) -> Option<(Instant, &str)> {
        let broken = self.0.iter().filter(|(_, repair)| repair.problem.is_some());
        broken.map(|(name, repair)| (repair.until, name.as_str())).min()
    }

    /// Those that do not work.
    pub(super) fn names(&self) -> Vec<String> {
        self.problems().map(|(name, _)| name.to_owned()).collect()
    }

    /// Those that do not work, and why.
    pub(super) fn problems(&self) -> impl Iterator<Item = (&str, String)> {
        self.0.keys().filter_map(|name| Some((name.as_str(), self.problem(name)?)))
    }

    /// Why an endpoint does not work, if it does not.
    pub(super) fn problem(&self, name: &str) -> Option<String> {
        let Repair { problem, until, .. } = self.0.get(name)?;
        let seconds = until.saturating_duration_since(Instant::now()).as_secs_f32().ceil();
        problem.as_ref().map(|problem| format!("{problem} (next try in {seconds} s)"))
    }
}

impl Owner {
    /// Sees to endpoints that are not as they should be: frees those whose container has ended, and has the others repaired when
    /// it is time for that.
    pub(super) async fn see_to(&mut self, names: Vec<String>, why: &str) {
        for name in self.free_gone(names).await {
            if self.broken.breaks(&name, why) {
                warn!("endpoint {name}: {why}");
            }
        }
    }

    /// Frees endpoints whose container has ended. Returns the others, that may work again.
    pub(super) async fn free_gone(&mut self, names: Vec<String>) -> Vec<String> {
        let (mut gone, mut missing) = (Vec::new(), Vec::new());
        for name in names {
            match self.state.endpoint(&name) {
                None => self.broken.forget(&name),
                // What cannot be told is told by the repair.
                Some(endpoint) if !self.is_gone(endpoint).await.unwrap_or(false) => missing.push(name),
                Some(_) => gone.push(name),
            }
        }
        self.free(&gone).await;
        missing
    }

    /// Repairs the endpoint whose turn it is: makes anew what is missing of it.
    pub(super) async fn repair(&mut self) {
        let Some((_, name)) = self.broken.next() else { return };
        let Some(name) = self.free_gone(vec![name.to_owned()]).await.pop() else { return };
        let Some(endpoint) = self.state.endpoint(&name).cloned() else { return };
        let repaired = match network_of(&self.state, &endpoint) {
            Ok(network) => {
                let mtu = network.mtu.unwrap_or(self.view.mtu());
                self.kernel.bring_up(&endpoint, network, mtu, Patience::None).await
            }
            Err(error) => Err(error),
        };
        if self.broken.repaired(&name, &repaired) {
            match repaired {
                Ok(()) => info!("endpoint {name} is repaired"),
                Err(error) => warn!("endpoint {name}: {error:#}"),
            }
        }
    }

    /// Whether an endpoint's container has ended.
    ///
    /// # Errors
    /// That cannot be told: then it is as if it had not.
    async fn is_gone(&self, endpoint: &Endpoint) -> Result<bool> {
        Ok(endpoint.netns.open()?.is_none() && self.kernel.link_of(endpoint).await?.is_none())
    }

    /// Frees endpoints whose namespace is gone, with one commit for all of them.
    async fn free(&mut self, names: &[String]) {
        for name in names {
            let Some((endpoint, changes)) = self.state.remove_name(name) else { continue };
            info!("endpoint {name}: its namespace is gone; {} is free", endpoint.address);
            self.broken.forget(name);
            self.pending.extend(changes);
            let torn = self.kernel.tear_down(&endpoint).await;
            self.held.free(&endpoint.publish);
            self.leave(endpoint, torn, None);
        }
        if !names.is_empty() {
            self.flush_pending().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn pauses_double_up_to_a_minute() {
        let mut repairs = Repairs::default();
        let before = Instant::now();
        assert!(repairs.breaks("a", "its link is gone") && !repairs.breaks("a", "its link is gone"));
        // The first repair is at once.
        assert!(repairs.next().is_some_and(|(at, name)| at <= Instant::now() && name == "a"));
        let refused = Err(anyhow!("no more memory"));
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            let pause = Duration::from_secs(seconds);
            let is_news = repairs.repaired("a", &refused);
            assert_eq!(is_news, seconds == 1, "the reason is told once");
            let (at, _) = repairs.next().unwrap();
            assert!(at >= before + pause && at <= Instant::now() + pause, "{seconds} s");
        }
        assert!(repairs.problem("a").unwrap().starts_with("no more memory (next try in "));
        // Who breaks it again does not have it repaired at once.
        assert!(repairs.repaired("a", &Ok(())) && repairs.next().is_none() && repairs.names().is_empty());
        repairs.calm_down();
        assert!(repairs.breaks("a", "its link is gone"));
        assert!(repairs.next().is_some_and(|(at, _)| at >= before + PAUSES[1]));
        // Another's pause is its own.
        repairs.breaks("b", "its link is gone");
        assert!(repairs.next().is_some_and(|(at, name)| at <= Instant::now() && name == "b"));
        repairs.forget("b");
        assert_eq!(repairs.names(), ["a"]);
    }

    #[test]
    fn what_did_not_come_up_is_tried_again() {
        let broken = BTreeMap::from([("a".to_owned(), anyhow!("its namespace cannot be entered"))]);
        let repairs = Repairs::after_start(broken);
        assert!(repairs.next().is_some_and(|(at, _)| at <= Instant::now() + PAUSES[0]));
        assert_eq!(repairs.problems().count(), 1);
    }
}
