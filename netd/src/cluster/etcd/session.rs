//! One connection to one member of etcd, from its beginning to its end.

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use etcd_client::{
    Client, Compare, CompareOp, DeleteOptions, Error, EventType, GetOptions, GetResponse,
    LeaseKeepAliveStream, LeaseKeeper, PutOptions, Txn, TxnOp, TxnResponse, WatchOptions, WatchResponse,
    WatchStream,
};
use futures_util::FutureExt as _;
use tokio::net::TcpStream;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tracing::warn;

use super::{
    goal::{Goal, Next},
    model::Model,
    plan,
    step::{Guard, Step, Write},
    stored::Version,
    task::{Ended, Task},
};
use crate::{
    cluster::View,
    names::{self, Shown},
};

/// Records that are read at once, if they are not too large for it: netd's own have a few hundred bytes.
const PAGE: i64 = 1000;
/// Longest answer of etcd's that is taken, bytes. One record may have 1.5 MB (etcd's `--max-request-bytes`), where somebody puts
/// under netd's prefix what does not belong there.
const LONGEST: usize = 64 << 20;
/// A connection that has done its work for so long works.
const WORKS: Duration = Duration::from_secs(2);
/// How long after all was read it is read again, because records found no room.
const AGAIN: Duration = Duration::from_secs(30);

/// What is waited for before the next step.
struct Pending {
    /// The revision that the last step has made; none: it has not happened, as something has changed that is on its way.
    revision: Option<i64>,
    /// If nothing comes until then, the connection is not what it seems.
    until: Instant,
}

/// The node's lease on this connection.
struct Lease {
    keeper: LeaseKeeper,
    answers: LeaseKeepAliveStream,
    answered: Instant,
}

impl Task {
    /// What all keys begin with.
    pub(super) fn root(&self) -> String {
        format!("{}/v1/", self.config.prefix)
    }

    /// Follows etcd by one of its members for as long as that works. `reached`: it has worked for a while.
    pub(super) async fn session(&mut self, endpoint: &str, reached: &mut bool) -> Result<Ended> {
        self.probe(endpoint).await?;
        let mut client = self.within(Client::connect([endpoint], Some(self.options()?))).await?;
        // Anew each time: nothing tells whether what there is continues what was known. An etcd that was restored from a
        // backup has the same ids, and its revisions soon pass those of the history that it has lost.
        self.load(&mut client).await?;
        // Not in fragments: with the first one of a revision, the others would count as had.
        let options = WatchOptions::new().with_prefix().with_start_revision(self.model.revision + 1);
        let mut watcher = client.watch_client().max_decoding_message_size(LONGEST);
        let mut watch = self.within(watcher.watch(self.root(), Some(options))).await?;
        let mut lease = match self.announces {
            true => Some(self.lease(&mut client).await?),
            false => None,
        };
        self.derive();
        let works = Instant::now() + WORKS;
        let again = Instant::now() + AGAIN;
        let mut beat = interval(self.config.lease / 3);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut pending = None;
        loop {
            if pending.is_none() {
                pending = self.act(&mut client).await?;
            }
            let until = pending.as_ref().map(|pending: &Pending| pending.until);
            tokio::select! {
                message = watch.message() => {
                    self.hear(message, &mut watch)?;
                    self.derive();
                    let reached = |revision| self.model.revision >= revision;
                    pending = pending.filter(|pending| pending.revision.is_some_and(|revision| !reached(revision)));
                }
                _ = beat.tick(), if lease.is_some() => {
                    if let Some(lease) = &mut lease {
                        if lease.answered.elapsed() > self.config.lease * 2 / 3 {
                            bail!("no answer for the lease");
                        }
                        self.within(lease.keeper.keep_alive()).await?;
                    }
                }
                alive = answer(&mut lease) => match alive? {
                    true => {}
                    false => lease = Some(self.new_lease(&mut client).await?),
                },
                changed = self.wanted.changed() => if changed.is_err() { return Ok(Ended) },
                ask = self.asked.recv() => match ask {
                    Some(ask) => self.asks.push(ask),
                    None => return Ok(Ended),
                },
                () = sleep_until(works), if !*reached => *reached = true,
                () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {
                    bail!("changes do not arrive");
                }
                () = sleep_until(again), if self.model.has_room_again() => {
                    bail!("there was more below {} than there is room for, and there may be room now", self.root());
                }
            }
        }
    }

    /// Connects and goes: where nobody listens, the client would try for as long as it is let.
    async fn probe(&self, endpoint: &str) -> Result<()> {
        let authority = endpoint.split_once("://").map_or(endpoint, |(_, authority)| authority);
        let authority = authority.trim_end_matches('/');
        match timeout(self.patience(), TcpStream::connect(authority)).await {
            Ok(connected) => connected.map(drop).map_err(Into::into),
            Err(_) => bail!("no answer within {:?}", self.patience()),
        }
    }

    /// Waits for an answer for as long as one may take.
    async fn within<T>(&self, answer: impl Future<Output = Result<T, Error>>) -> Result<T> {
        match timeout(self.patience(), answer).await {
            Ok(answer) => answer.map_err(|error| line(&error)),
            Err(_) => bail!("no answer within {:?}", self.patience()),
        }
    }

    /// Reads all there is, at one revision, page by page.
    async fn load(&mut self, client: &mut Client) -> Result<()> {
        let root = self.root();
        // What comes behind the keys that begin so: `0` is behind `/`.
        let end = format!("{}0", root.trim_end_matches('/'));
        let mut model = Model::after(&self.model);
        let mut start = root.clone().into_bytes();
        let mut limit = PAGE;
        loop {
            let mut options = GetOptions::new().with_range(end.clone()).with_limit(limit);
            if model.revision > 0 {
                options = options.with_revision(model.revision);
            }
            let Some(page) = self.page(client, &start, options).await? else {
                limit = (limit / 10).max(1);
                continue;
            };
            if model.revision == 0 {
                model.revision = page.header().context("etcd gives no revision")?.revision();
                if model.revision < self.model.revision {
                    // One that counts anew: what it calls old and new has nothing to do with what was known.
                    self.model.forget_ages();
                }
            }
            for record in page.kvs() {
                let key = String::from_utf8_lossy(record.key());
                let key = key.strip_prefix(&root).unwrap_or(&key);
                let version = Version::of(record);
                if let Err(error) = model.put_known(key, record.value(), version, &self.model) {
                    self.note(key, version.revision, &format!("{error:#}"));
                }
            }
            let Some(last) = page.kvs().last().filter(|_| page.more()) else { break };
            start = last.key().to_vec();
            start.push(0);
        }
        model.complete();
        if let more @ 1.. = model.left_out() {
            warn!("etcd: {more} records below {root} are more than there is room for");
        }
        self.model = model;
        Ok(())
    }

    /// Some records at once; none: they are too large for it.
    async fn page(&self, client: &Client, start: &[u8], options: GetOptions) -> Result<Option<GetResponse>> {
        let mut reader = client.kv_client().max_decoding_message_size(LONGEST);
        let answer = timeout(self.patience(), reader.get(start, Some(options))).await;
        match answer {
            Ok(Ok(page)) => Ok(Some(page)),
            Ok(Err(error)) if is_too_long(&error) => Ok(None),
            Ok(Err(error)) => Err(line(&error)),
            Err(_) => bail!("no answer within {:?}", self.patience()),
        }
    }

    /// Takes in what has changed: all that is there, so that many changes cost one look.
    fn hear(&mut self, first: Result<Option<WatchResponse>, Error>, watch: &mut WatchStream) -> Result<()> {
        let mut message = Some(first);
        let root = self.root();
        while let Some(response) = message {
            // Also where there is more at once than is taken: it is read anew then, in pages.
            let response = response.map_err(|error| line(&error))?;
            let response = response.context("the watch has ended")?;
            if response.canceled() {
                bail!("the watch was cancelled: {}", Shown(response.cancel_reason()));
            }
            for event in response.events() {
                let Some(record) = event.kv() else { continue };
                let key = String::from_utf8_lossy(record.key());
                let key = key.strip_prefix(&root).unwrap_or(&key);
                match event.event_type() {
                    EventType::Put => {
                        if let Err(error) = self.model.put(key, record.value(), Version::of(record)) {
                            self.note(key, record.mod_revision(), &format!("{error:#}"));
                        }
                    }
                    EventType::Delete => self.model.delete(key),
                }
                self.model.revision = self.model.revision.max(record.mod_revision());
            }
            message = watch.message().now_or_never();
        }
        Ok(())
    }

    /// The lease that there is, or another.
    async fn lease(&mut self, client: &mut Client) -> Result<Lease> {
        if self.me.lease() != 0 {
            match timeout(self.patience(), client.lease_keep_alive(self.me.lease())).await {
                Ok(Ok((keeper, answers))) => return Ok(Lease { keeper, answers, answered: Instant::now() }),
                // It has ended meanwhile.
                Ok(Err(Error::LeaseKeepAliveError(_))) => {}
                Ok(Err(error)) => return Err(line(&error)),
                Err(_) => bail!("no answer within {:?}", self.patience()),
            }
        }
        self.new_lease(client).await
    }

    async fn new_lease(&mut self, client: &mut Client) -> Result<Lease> {
        let seconds = i64::try_from(self.config.lease.as_secs()).unwrap_or(i64::MAX);
        let granted = self.within(client.lease_grant(seconds, None)).await?;
        let (keeper, answers) = self.within(client.lease_keep_alive(granted.id())).await?;
        self.me.leases.push(granted.id());
        Ok(Lease { keeper, answers, answered: Instant::now() })
    }

    /// Does what comes next, if anything does, and shows how things are.
    async fn act(&mut self, client: &mut Client) -> Result<Option<Pending>> {
        while let Some(index) = self.asks.iter().position(|ask| !ask.reply.is_closed()) {
            self.asks.drain(..index);
            let next = self.asks[0].goal.next(&self.model, &self.cluster, &self.me, self.asks[0].tried);
            let (step, last) = match next {
                Next::Step(step) => (step, None),
                Next::Last(step, network) => (step, Some(network)),
                Next::Done(network) => {
                    self.answer(Ok(network));
                    continue;
                }
                Next::Refused(refusal) => {
                    self.answer(Err(refusal));
                    continue;
                }
            };
            if self.asks[0].goal == Goal::Leave {
                self.announces = false;
            }
            let tried_before = std::mem::replace(&mut self.asks[0].tried, true);
            let pending = self.take(client, &step).await?;
            // It is known now that this one has not happened.
            self.asks[0].tried = tried_before || pending.revision.is_some();
            if let (Some(_), Some(network)) = (pending.revision, last) {
                self.answer(Ok(network));
            }
            return Ok(Some(pending));
        }
        self.asks.clear();
        let plan = match self.announces {
            true => plan::next(&self.model, &self.cluster, &self.me, &self.wanted.borrow_and_update()),
            false => plan::Plan::default(),
        };
        let mine = self.model.nodes.get(&self.me.node);
        self.me.named |= mine.is_some_and(|stored| stored.lease != 0 && stored.lease == self.me.lease());
        self.show(View {
            cluster: Some(self.cluster.clone()),
            settled: plan.step.is_none() && !plan.may_return,
            unreachable: None,
            refused: plan.refused,
            ignored: self.ignored.clone(),
            taken: plan.taken,
            may_return: plan.may_return,
        });
        match plan.step {
            Some(step) => Ok(Some(self.take(client, &step).await?)),
            None => Ok(None),
        }
    }

    fn answer(&mut self, result: Result<Option<crate::cluster::SharedNetwork>, crate::request::Refusal>) {
        let ask = self.asks.remove(0);
        if matches!(ask.goal, Goal::Leave) && result.is_ok() {
            self.announces = false;
        }
        let _ = ask.reply.send(result);
    }

    /// Takes a step.
    async fn take(&self, client: &mut Client, step: &Step) -> Result<Pending> {
        let response = self.within(client.txn(transaction(&self.root(), step))).await?;
        let made = |response: &TxnResponse| response.header().map(etcd_client::ResponseHeader::revision);
        let revision = if response.succeeded() { made(&response) } else { None };
        Ok(Pending { revision, until: Instant::now() + self.patience().max(Duration::from_secs(2)) })
    }
}

/// Whether the lease is still there; never, where there is none to ask for.
async fn answer(lease: &mut Option<Lease>) -> Result<bool> {
    match lease {
        None => std::future::pending().await,
        Some(lease) => {
            let answer = lease.answers.message().await.map_err(|error| line(&error))?;
            lease.answered = Instant::now();
            Ok(answer.context("the lease's connection has ended")?.ttl() > 0)
        }
    }
}

/// A step as etcd takes it.
fn transaction(root: &str, step: &Step) -> Txn {
    let key = |key: &str| format!("{root}{key}");
    let guards: Vec<Compare> = step
        .guards
        .iter()
        .map(|guard| match guard {
            Guard::Revision(at, revision) => Compare::mod_revision(key(at), CompareOp::Equal, *revision),
            Guard::Lease(at, lease) => Compare::lease(key(at), CompareOp::Equal, *lease),
            Guard::Unchanged(below, revision) => {
                Compare::mod_revision(key(below), CompareOp::Less, revision + 1).with_prefix()
            }
        })
        .collect();
    let writes: Vec<TxnOp> = step
        .writes
        .iter()
        .map(|write| match write {
            Write::Put(at, value, lease) => {
                TxnOp::put(key(at), value.clone(), Some(PutOptions::new().with_lease(*lease)))
            }
            Write::Delete(at) => TxnOp::delete(key(at), None),
            Write::DeleteBelow(below) => TxnOp::delete(key(below), Some(DeleteOptions::new().with_prefix())),
        })
        .collect();
    Txn::new().when(guards).and_then(writes)
}

/// Whether an answer was longer than [`LONGEST`].
fn is_too_long(error: &Error) -> bool {
    /// `OUT_OF_RANGE` (grpc/statuscodes), which is what tonic says then.
    const OUT_OF_RANGE: i32 = 11;
    matches!(error, Error::GRpcStatus(status) if status.code() as i32 == OUT_OF_RANGE)
}

/// An error in one line, without what only says what kind of thing an error is.
fn line(error: &Error) -> anyhow::Error {
    let mut text = match error {
        Error::GRpcStatus(status) if !status.message().is_empty() => status.message().to_owned(),
        other => other.to_string(),
    };
    let mut source = std::error::Error::source(error);
    if let Error::GRpcStatus(status) = error {
        source = std::error::Error::source(status);
    }
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    anyhow!("{}", names::one_line(&text.replace('\n', " ")))
}
