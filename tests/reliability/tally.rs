//! Which moments were hit, and what came of it.

use std::collections::BTreeMap;
use std::fmt;

use crate::pair::Holds;
use crate::strike::Strike;

/// Where a load was, by the last of its own words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Finding cluster and nodes, opening sessions, reading the image.
    Start,
    Stage,
    Name,
    Prove,
    /// Ending the leases.
    Settle,
    /// Too late.
    Ended,
}

impl Phase {
    const ALL: [Self; 6] = [
        Self::Start,
        Self::Stage,
        Self::Name,
        Self::Prove,
        Self::Settle,
        Self::Ended,
    ];

    /// What a load says with `--verbose` when a phase begins.
    pub fn mark(self) -> &'static str {
        match self {
            Self::Start => "",
            Self::Stage => " layers unpacked, ",
            Self::Name => "staged on every node\n",
            Self::Prove => "named on every node\n",
            Self::Settle => "proven on every node\n",
            Self::Ended => "loaded ",
        }
    }

    /// Returns the phase that a load is in.
    pub fn of(said: &str) -> Self {
        let begun = Self::ALL
            .into_iter()
            .rfind(|phase| said.contains(phase.mark()));
        begun.unwrap_or(Self::Start)
    }
}

/// All runs together.
#[derive(Default)]
pub struct Tally {
    hits: BTreeMap<(Phase, Strike), usize>,
    /// How many moments fell into each tenth of a load's time.
    tenths: [usize; 11],
    ends: BTreeMap<(Phase, &'static str), usize>,
    missed: usize,
}

impl Tally {
    /// Counts a run. `moment` is the part of a whole load's time that had passed.
    pub fn count(&mut self, phase: Phase, strike: Strike, moment: f64, from: Holds, to: &[Holds]) {
        *self.hits.entry((phase, strike)).or_default() += 1;
        // The last is for what came later than a load takes.
        let tenth = (moment * 10.0) as usize;
        self.tenths[tenth.min(10)] += 1;
        let old = to.iter().filter(|holds| **holds == from).count();
        let end = match old {
            0 => "new",
            old if old == to.len() => "old",
            _ => "both",
        };
        *self.ends.entry((phase, end)).or_default() += 1;
    }

    /// Counts a moment in which there was nothing to strike.
    pub fn count_missed(&mut self) {
        self.missed += 1;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "| hit in  |")?;
        for strike in Strike::ALL {
            write!(f, " {} |", strike.name())?;
        }
        writeln!(f, " all | old image after | new | both |")?;
        writeln!(f, "|---|{}", "---:|".repeat(Strike::ALL.len() + 4))?;
        for phase in Phase::ALL {
            let hits = |strike| self.hits.get(&(phase, strike)).copied().unwrap_or(0);
            let ends = |end| self.ends.get(&(phase, end)).copied().unwrap_or(0);
            write!(f, "| {:7} |", format!("{phase:?}").to_lowercase())?;
            for strike in Strike::ALL {
                write!(f, " {:1$} |", hits(strike), strike.name().len())?;
            }
            let all: usize = Strike::ALL.into_iter().map(hits).sum();
            let (old, new, both) = (ends("old"), ends("new"), ends("both"));
            writeln!(f, " {all:3} | {old:15} | {new:3} | {both:4} |")?;
        }
        let tenths: Vec<String> = self.tenths.iter().map(usize::to_string).collect();
        writeln!(
            f,
            "moments by tenths of a load's time: {}, later {}",
            tenths[..10].join(" "),
            tenths[10]
        )?;
        writeln!(f, "moments with nothing to strike: {}", self.missed)
    }
}
