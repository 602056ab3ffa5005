//! `kindlift prune`.

use std::time::Duration;

use clap::Args;
use kindlift::error::Error;
use kindlift::job::Job;
use kindlift::run::{self, PruneRequest, Pruning};

use super::Place;

/// Remove images that later loads have superseded
///
/// Lists what kindlift loaded, and what would be removed; with --yes, removes it. Stays: the
/// newest images of each name, what a container was made of, and what kindlift did not load.
#[derive(Args)]
pub struct Prune {
    /// Only images of these names, whatever their tag
    #[arg(value_name = "IMAGE")]
    images: Vec<String>,
    /// How many images of each name stay
    #[arg(long, value_name = "N", default_value_t = 3)]
    keep: usize,
    /// Remove only what was loaded at least this long ago, e.g. 90m, 12h, 7d
    #[arg(long, value_name = "TIME", value_parser = age, default_value = "0s")]
    older_than: Duration,
    /// Remove, instead of only telling what would be
    #[arg(short, long)]
    yes: bool,
    #[command(flatten)]
    place: Place,
}

impl Prune {
    /// Runs it.
    pub async fn run(&self, job: &Job) -> Result<Pruning, Error> {
        let request = PruneRequest {
            images: self.images.clone(),
            keep: self.keep,
            older_than: self.older_than,
            yes: self.yes,
            place: self.place.resolve(),
        };
        run::prune(job, &request).await
    }
}

/// Reads a time: a number and s, m, h, d or w.
fn age(text: &str) -> Result<Duration, String> {
    let unit = |c| match c {
        's' => Some(1),
        'm' => Some(60),
        'h' => Some(60 * 60),
        'd' => Some(24 * 60 * 60),
        'w' => Some(7 * 24 * 60 * 60),
        _ => None,
    };
    text.char_indices()
        .next_back()
        .and_then(|(at, last)| {
            let seconds: u64 = unit(last)?;
            text[..at].parse::<u64>().ok()?.checked_mul(seconds)
        })
        .map(Duration::from_secs)
        .ok_or_else(|| "write a number and s, m, h, d or w, e.g. 12h".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_times() {
        assert_eq!(age("90m").unwrap(), Duration::from_secs(5400));
        assert_eq!(age("2w").unwrap(), Duration::from_secs(14 * 86400));
        for bad in [
            "",
            "5",
            "h",
            "-1h",
            "1y",
            "1.5h",
            "99999999999999999999s",
            "1é",
        ] {
            assert!(age(bad).is_err(), "{bad}");
        }
    }
}
