//! When the host's network is looked at. One look at a time: of two, the older might end last, and be believed.

use std::time::Duration;

use anyhow::{Result, anyhow};
use tokio::{task::JoinHandle, time::Instant};

/// How often the host's network is looked at although nothing is announced: not every change of a route is.
const LOOK: Duration = Duration::from_secs(30);
/// How long after a change of the host's network it is looked at: what comes in quick succession is one change.
const SETTLE: Duration = Duration::from_millis(200);
/// How many times as long as a look took there is none after it: where that takes long, changes that never end must not keep
/// the machine busy.
const REST: u32 = 10;

/// The look that is under way, and when the next is due.
#[derive(Debug)]
pub(super) struct Looks<T> {
    at: Instant,
    /// There is none before that.
    not_before: Instant,
    began: Instant,
    running: Option<JoinHandle<Result<T>>>,
}

impl<T> Looks<T> {
    /// The first is due after a while.
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self { at: now + LOOK, not_before: now, began: now, running: None }
    }

    /// The host's network has changed: what a look that is under way has seen of it may be too old, so there will be another.
    pub(super) fn changed(&mut self) {
        self.at = self.at.min(Instant::now() + SETTLE);
    }

    /// When the next is to begin; none: when the one has ended that is under way.
    pub(super) fn due(&self) -> Option<Instant> {
        self.running.is_none().then_some(self.at.max(self.not_before))
    }

    /// One has begun.
    pub(super) fn begin(&mut self, look: JoinHandle<Result<T>>) {
        self.began = Instant::now();
        self.at = self.began + LOOK;
        self.running = Some(look);
    }

    /// What the one that is under way has seen; never, if there is none. Nothing is lost where this is not waited for.
    pub(super) async fn seen(&mut self) -> Result<T> {
        let Some(look) = &mut self.running else { return std::future::pending().await };
        let seen = look.await;
        self.running = None;
        let now = Instant::now();
        self.not_before = now + (REST * (now - self.began)).min(LOOK);
        seen.unwrap_or_else(|error| Err(anyhow!("it ended half way: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn what_takes_long_is_not_done_often() {
        const TAKES: Duration = Duration::from_millis(50);
        let mut looks = Looks::new();
        let start = Instant::now();
        looks.begin(tokio::spawn(async {
            tokio::time::sleep(TAKES).await;
            Ok(())
        }));
        looks.changed();
        looks.seen().await.unwrap();
        looks.changed();
        assert!(looks.due().is_some_and(|due| due >= start + (1 + REST) * TAKES), "the next comes at once");
    }

    #[tokio::test]
    async fn a_look_never_overtakes_another() {
        let mut looks = Looks::new();
        looks.changed();
        assert!(looks.due() <= Some(Instant::now() + SETTLE));
        let (old, result) = oneshot::channel();
        looks.begin(tokio::spawn(async move { Ok(result.await?) }));
        // Something changes while it looks: it is not asked again before it has answered, and then soon.
        looks.changed();
        assert_eq!(looks.due(), None);
        old.send(1).unwrap();
        assert_eq!(looks.seen().await.unwrap(), 1);
        assert!(looks.due().is_some_and(|due| due <= Instant::now() + SETTLE));
        looks.begin(tokio::spawn(async { Ok(2) }));
        assert_eq!(looks.seen().await.unwrap(), 2);
        assert!(looks.due().is_some_and(|due| due > Instant::now() + SETTLE), "nothing has changed since");
        looks.begin(tokio::spawn(async { panic!("half way") }));
        assert!(looks.seen().await.is_err());
        assert!(looks.due().is_some());
    }
}
