//! Every order in which a few threads can use the same tables, one after the other: what several CPUs may do to each other shows
//! each time, and not once in a million runs.
//!
//! The threads are real ones of which one runs at a time. Before each use of something shared ([`point`]) it may be another's turn.
//! An [`Explorer`] runs them again and again, each time with the next choice of turns (depth first), until there is none left. Turns
//! that interrupt a thread are bounded: most errors need one or two (Musuvathi and Qadeer, PLDI 2007), and the number of orders grows
//! with each.

use std::{
    cell::{Cell, RefCell},
    fmt::Write as _,
    panic::{AssertUnwindSafe, Location, catch_unwind, resume_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{SystemTime, UNIX_EPOCH},
};

thread_local! {
    /// The run that this thread takes part in, and its number there.
    static RUN: RefCell<Option<(Arc<Run>, usize)>> = const { RefCell::new(None) };
    /// How many more points a thread passes before it gives way; 0: it never does.
    static UNTIL_PAUSE: Cell<u32> = const { Cell::new(0) };
}

/// Something shared is about to be used, by whoever calls the caller. Without an [`Explorer`] or [`with_pauses`] this does nothing.
#[track_caller]
pub fn point() {
    let run = RUN.with_borrow(Clone::clone);
    if let Some((run, own)) = run {
        run.yield_turn(own);
        run.turns().steps.push((own, Location::caller()));
    }
    match UNTIL_PAUSE.get() {
        0 => {}
        1 => {
            // Sometimes soon again, sometimes not: by a clock that nobody can foresee.
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            UNTIL_PAUSE.set(1 + now.subsec_nanos() / 64 % 32);
            thread::yield_now();
        }
        more => UNTIL_PAUSE.set(more - 1),
    }
}

/// Does something with the thread giving way to others now and then between two steps: on few CPUs, many threads do more to each
/// other than they would by themselves.
pub fn with_pauses<R>(work: impl FnOnce() -> R) -> R {
    UNTIL_PAUSE.set(1);
    let result = work();
    UNTIL_PAUSE.set(0);
    result
}

/// Whether an [`Explorer`] runs this thread.
pub(super) fn is_running() -> bool {
    RUN.with_borrow(Option::is_some)
}

/// Does something during which it is nobody else's turn.
pub(super) fn in_one_step<R>(work: impl FnOnce() -> R) -> R {
    let run = RUN.take();
    let result = work();
    RUN.set(run);
    result
}

/// Whose turn it was, where there was a choice.
#[derive(Clone, Copy, Debug)]
struct Choice {
    /// The one taken; 0: the thread goes on, or if it has ended, the first of the others does.
    taken: usize,
    /// How many there were.
    of: usize,
}

/// One run of the threads.
#[derive(Debug)]
struct Run {
    turns: Mutex<Turns>,
    changed: Condvar,
}

#[derive(Debug)]
struct Turns {
    /// Whose turn it is.
    whose: usize,
    ended: Vec<bool>,
    /// Those to take, then those taken.
    choices: Vec<Choice>,
    /// How many of them have been made.
    made: usize,
    /// How many more threads may be interrupted.
    interruptions: usize,
    /// Who has used something shared, and where.
    steps: Vec<(usize, &'static Location<'static>)>,
}

impl Run {
    fn turns(&self) -> MutexGuard<'_, Turns> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_for_turn(&self, mut turns: MutexGuard<'_, Turns>, own: usize) {
        while turns.whose != own {
            turns = self.changed.wait(turns).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A thread may be interrupted.
    fn yield_turn(&self, own: usize) {
        let mut turns = self.turns();
        if turns.interruptions == 0 {
            return;
        }
        let others = turns.others(own);
        let taken = turns.choose(1 + others.len());
        if taken > 0 {
            turns.interruptions -= 1;
            turns.whose = others[taken - 1];
            self.changed.notify_all();
            self.wait_for_turn(turns, own);
        }
    }

    /// A thread has ended.
    fn end(&self, own: usize) {
        let mut turns = self.turns();
        turns.ended[own] = true;
        let others = turns.others(own);
        if !others.is_empty() {
            turns.whose = others[turns.choose(others.len())];
            self.changed.notify_all();
        }
    }
}

impl Turns {
    /// The threads that have not ended, but for one.
    fn others(&self, own: usize) -> Vec<usize> {
        (0..self.ended.len()).filter(|other| *other != own && !self.ended[*other]).collect()
    }

    /// Who did what, a line for each turn.
    fn told(&self) -> String {
        let mut text = String::new();
        let mut whose = None;
        for (own, place) in &self.steps {
            if whose != Some(own) {
                let _ = write!(text, "\n  thread {own}:");
                whose = Some(own);
            }
            let file = place.file().rsplit('/').next().unwrap_or_default();
            let _ = write!(text, " {file}:{}", place.line());
        }
        text
    }

    fn choose(&mut self, of: usize) -> usize {
        if of == 1 {
            return 0;
        }
        if self.made == self.choices.len() {
            self.choices.push(Choice { taken: 0, of });
        }
        let choice = self.choices[self.made];
        assert_eq!(choice.of, of, "the threads do not do the same in each run");
        self.made += 1;
        choice.taken
    }
}

/// What a thread does.
pub type Thread<'a, S> = &'a (dyn Fn(&S) + Sync);

/// Runs threads in every order.
#[derive(Clone, Copy, Debug)]
pub struct Explorer {
    /// How often a thread may be interrupted in a run.
    pub interruptions: usize,
    /// More runs than this are too many.
    pub limit: usize,
}

impl Explorer {
    /// Runs the threads in every order, each time over what `set_up` makes, and has `check` look at what has become of it. Returns how
    /// many orders there are.
    ///
    /// # Errors
    /// The first order for which `check` returns an error, with that and who used what where; a thread panics; or there are more orders than the limit.
    ///
    /// # Panics
    /// The threads do not do the same in the same order.
    pub fn explore<S: Sync>(
        &self,
        set_up: impl Fn() -> S,
        threads: &[Thread<'_, S>],
        check: impl Fn(&S) -> Result<(), String>,
    ) -> Result<usize, String> {
        let mut choices: Vec<Choice> = Vec::new();
        for runs in 1..=self.limit {
            let shared = set_up();
            let (turns, outcome) = self.run(&shared, threads, choices);
            outcome
                .and_then(|()| check(&shared))
                .map_err(|error| format!("{error}\nrun {runs}:{}", turns.told()))?;
            choices = turns.choices;
            // The last choice that has another alternative.
            while choices.pop_if(|last| last.taken + 1 == last.of).is_some() {}
            match choices.last_mut() {
                Some(last) => last.taken += 1,
                None => return Ok(runs),
            }
        }
        Err(format!("more than {} orders", self.limit))
    }

    /// One run.
    fn run<S: Sync>(
        &self,
        shared: &S,
        threads: &[Thread<'_, S>],
        choices: Vec<Choice>,
    ) -> (Turns, Result<(), String>) {
        let mut turns = Turns {
            whose: 0,
            ended: vec![false; threads.len()],
            choices,
            made: 0,
            interruptions: self.interruptions,
            steps: Vec::new(),
        };
        turns.whose = turns.choose(threads.len());
        let run = Arc::new(Run { turns: Mutex::new(turns), changed: Condvar::new() });
        let outcome = thread::scope(|scope| {
            let all: Vec<_> = threads
                .iter()
                .enumerate()
                .map(|(own, thread)| {
                    let run = run.clone();
                    scope.spawn(move || {
                        RUN.set(Some((run.clone(), own)));
                        run.wait_for_turn(run.turns(), own);
                        let outcome = catch_unwind(AssertUnwindSafe(|| thread(shared)));
                        run.end(own);
                        outcome.unwrap_or_else(|panic| resume_unwind(panic));
                    })
                })
                .collect();
            // All of them, so that none is left to panic the scope.
            let failed = all.into_iter().filter_map(|thread| thread.join().err()).next_back();
            failed.map_or(Ok(()), |panic| Err(describe(&*panic)))
        });
        let run = Arc::into_inner(run).expect("all threads have ended");
        (run.turns.into_inner().unwrap_or_else(PoisonError::into_inner), outcome)
    }
}

/// What a panic says.
fn describe(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    format!("a thread has panicked: {}", text.unwrap_or("it does not say why"))
}

#[cfg(test)]
mod tests {
    use super::{super::sync::Table, *};

    const EXPLORER: Explorer = Explorer { interruptions: 2, limit: 100_000 };

    /// Reads, and then writes what it has read plus one.
    fn add_in_two_steps(count: &Table<u32>) {
        let old = *count.borrow();
        *count.borrow_mut() = old + 1;
    }

    fn add(count: &Table<u32>) {
        *count.borrow_mut() += 1;
    }

    fn is(expected: u32) -> impl Fn(&Table<u32>) -> Result<(), String> {
        move |count| {
            let count = *count.borrow();
            if count == expected { Ok(()) } else { Err(format!("{count} instead of {expected}")) }
        }
    }

    #[test]
    fn a_lost_update_is_found() {
        let error = EXPLORER
            .explore(|| Table::new(0), &[&add_in_two_steps, &add_in_two_steps], is(2))
            .expect_err("found");
        assert!(error.starts_with("1 instead of 2\n"), "{error}");
        // One after the other, nothing is lost.
        let calm = Explorer { interruptions: 0, ..EXPLORER };
        assert_eq!(calm.explore(|| Table::new(0), &[&add_in_two_steps, &add_in_two_steps], is(2)), Ok(2));
    }

    #[test]
    fn every_order_is_tried() {
        // Two threads of two steps each: 6 orders of the steps. That of a thread that is interrupted before its first step is that of the
        // other going first, so some are run twice.
        let seen = Mutex::new(std::collections::BTreeSet::new());
        let push = |first: u8| {
            move |steps: &Table<Vec<u8>>| {
                steps.borrow_mut().push(first);
                steps.borrow_mut().push(first + 1);
            }
        };
        let (one, other) = (push(1), push(3));
        let free = Explorer { interruptions: 4, ..EXPLORER };
        let check = |steps: &Table<Vec<u8>>| {
            seen.lock().unwrap().insert(steps.borrow().clone());
            Ok(())
        };
        free.explore(Table::default, &[&one, &other], check).unwrap();
        assert_eq!(seen.lock().unwrap().len(), 6);
    }

    #[test]
    fn what_is_one_step_is_never_lost_and_a_panic_is_told() {
        let orders = EXPLORER.explore(|| Table::new(0), &[&add, &add, &add], is(3)).unwrap();
        assert!(orders > 6, "{orders}");
        let error = EXPLORER
            .explore(|| Table::new(0), &[&add, &|_: &Table<u32>| panic!("no")], is(1))
            .expect_err("told");
        assert!(error.starts_with("a thread has panicked: no\n"), "{error}");
    }
}
