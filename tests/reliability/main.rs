//! kindlift killed at random moments, again and again: whatever dies, a tag on a node is the old
//! complete image or the new complete image, and the next run makes all nodes equal.
//!
//! `KINDLIFT_SOAK_RUNS` says how often, `KINDLIFT_SOAK_SEED` repeats an earlier test's choices.

#[path = "../support/lab.rs"]
#[expect(dead_code, reason = "most of it is for the other lab tests")]
mod lab;
#[path = "../support/pair.rs"]
mod pair;
#[path = "../support/run.rs"]
#[expect(dead_code, reason = "some of it is for the other tests")]
mod run;

mod kill;
mod proxy;
mod strike;
mod tally;
