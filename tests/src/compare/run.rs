//! Both copies, step by step.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;

use super::{
    Copy, Family, Kind,
    known::{Difference, Known},
    story::Step,
};

/// Nothing is done before so much time has passed: a packet that both copies are late with would count to the next step.
const AT_LEAST: Duration = Duration::from_millis(1);
/// How long one copy is waited for that has got less than the other.
const AT_MOST: Duration = Duration::from_millis(250);

/// The two copies.
#[derive(Debug)]
pub struct Twins {
    netd: Copy,
    netfilter: Copy,
    /// How often each known difference was seen, by its heading.
    pub seen: BTreeMap<&'static str, u64>,
    /// Steps that were played.
    pub steps: u64,
    /// The last story that was played, and what everybody got.
    pub transcript: String,
}

/// What came of a story.
#[derive(Debug)]
pub enum Outcome {
    /// The same, all along, but for known differences, of which these are the headings.
    Same(Vec<&'static str>),
    /// Another difference, in the step of this number.
    Different(usize),
}

impl Twins {
    /// Builds both; the parties' kernels are mute.
    ///
    /// # Errors
    /// Something cannot be made.
    pub fn new() -> Result<Self> {
        let (netd, netfilter) = (Copy::new(Kind::Netd)?, Copy::new(Kind::Netfilter)?);
        netd.mute()?;
        netfilter.mute()?;
        Ok(Self { netd, netfilter, seen: BTreeMap::new(), steps: 0, transcript: String::new() })
    }

    /// What netd's daemon has printed.
    #[must_use]
    pub fn log(&self) -> String {
        self.netd.log()
    }

    /// Plays a story. A difference that is not known is looked at twice: it has to be there again.
    ///
    /// # Errors
    /// A copy does not work.
    pub fn play(&mut self, family: Family, steps: &[Step]) -> Result<Outcome> {
        let mut outcome = self.once(family, steps)?;
        if let Outcome::Different(_) = outcome {
            outcome = self.once(family, steps)?;
        }
        if let Outcome::Same(known) = &outcome {
            known.iter().for_each(|heading| *self.seen.entry(heading).or_default() += 1);
        }
        Ok(outcome)
    }

    /// A shorter story whose last step shows a difference, too; it is the last that is played. In another step it would be another
    /// difference.
    ///
    /// # Errors
    /// A copy does not work.
    pub fn shrink(&mut self, family: Family, steps: &[Step], at: usize) -> Result<Vec<Step>> {
        let mut steps = steps[..=at].to_vec();
        let mut index = at;
        while index > 0 {
            index -= 1;
            let mut fewer = steps.clone();
            fewer.remove(index);
            let last = fewer.len() - 1;
            if matches!(self.once(family, &fewer)?, Outcome::Different(at) if at == last) {
                steps = fewer;
            }
        }
        self.once(family, &steps)?;
        Ok(steps)
    }

    fn once(&mut self, family: Family, steps: &[Step]) -> Result<Outcome> {
        self.forget(family)?;
        self.transcript.clear();
        let mut seen = Vec::new();
        // Where both began with nothing.
        let mut start = 0;
        for (number, step) in steps.iter().enumerate() {
            self.steps += 1;
            let _ = writeln!(self.transcript, "{number}. {step:?}");
            // Makes the identification: not soon the same again, or fragments of two stories would be mixed up.
            let identification = (self.steps % 0x7fff) as u16 + 1;
            let sent = [self.netd.act(step, identification)?, self.netfilter.act(step, identification)?];
            let [netd, netfilter] = self.receive()?;
            if sent == [true; 2] && netd == netfilter {
                netd.iter().for_each(|line| self.transcript.push_str(&format!("     {line}\n")));
                continue;
            }
            if sent == [false; 2] && netd == netfilter {
                let _ = writeln!(self.transcript, "     (nothing to be done)");
                continue;
            }
            for (name, lines) in [("netd     ", &netd), ("netfilter", &netfilter)] {
                lines.iter().for_each(|line| self.transcript.push_str(&format!("   {name} {line}\n")));
                if lines.is_empty() {
                    let _ = writeln!(self.transcript, "   {name} nobody has got anything");
                }
            }
            let (before, netd, netfilter) = (&steps[start..number], &netd[..], &netfilter[..]);
            let difference = Difference { family, before, step, netd, netfilter };
            let Some(known) = Known::find(&difference).filter(|_| sent == [true; 2]) else {
                return Ok(Outcome::Different(number));
            };
            // From here on one may know what the other does not: both forget all, and the story goes on.
            let _ = writeln!(self.transcript, "     (known: {}; both begin anew)", known.heading);
            seen.push(known.heading);
            self.forget(family)?;
            start = number + 1;
        }
        Ok(Outcome::Same(seen))
    }

    /// Both forget all.
    fn forget(&mut self, family: Family) -> Result<()> {
        self.netd.forget(family)?;
        self.netfilter.forget(family)
    }

    /// What the parties of both have got.
    fn receive(&mut self) -> Result<[Vec<String>; 2]> {
        let start = Instant::now();
        let mut got = [Vec::new(), Vec::new()];
        loop {
            got[0].extend(self.netd.receive()?);
            got[1].extend(self.netfilter.receive()?);
            // By party; what one party gets stays in order.
            got.iter_mut().for_each(|lines| lines.sort_by_key(|(party, _)| *party));
            let passed = start.elapsed();
            if passed >= AT_MOST || passed >= AT_LEAST && got[0] == got[1] {
                return Ok(got.map(|lines| lines.into_iter().map(|(_, line)| line).collect()));
            }
            thread::sleep(Duration::from_micros(200));
        }
    }
}
