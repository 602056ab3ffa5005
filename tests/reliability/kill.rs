//! The test itself.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::lab::{self, Cluster, Node};
use crate::pair::{Colour, Holds, Pair, Source};
use crate::proxy;
use crate::run::{self, Running};
use crate::strike::{Strike, Target};
use crate::tally::{Phase, Tally};

/// How long a load takes, and its parts.
#[derive(Debug, Clone, Copy)]
struct Course {
    whole: Duration,
    naming: Duration,
    proof: Duration,
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|e| panic!("{variable} is {text:?}: {e}")),
    )
}

/// One test under way.
struct Soak {
    cluster: Cluster,
    pair: Pair,
    targets: Vec<Target>,
    /// The same Docker, not at a local socket.
    remote: String,
    random: fastrand::Rng,
    /// The nodes without either image, and with each alone.
    empty: Vec<Node>,
    alone: [Vec<Node>; 2],
    /// Of a load from files and of one out of the engine.
    courses: [Course; 2],
    tally: Tally,
}

impl Soak {
    fn new(seed: u64, way: &'static str) -> Self {
        let mut pair = Pair::new("kill");
        pair.way = Some(way);
        let cluster = Cluster::new("kill", 2, &[]);
        let targets = cluster.nodes.iter().map(|name| Target::new(name)).collect();
        let empty = collected(&cluster);
        let alone = Colour::BOTH.map(|colour| {
            run::run(&mut pair.load(colour, Source::Archive, &cluster.name)).expect(0);
            pair.forget(&cluster.nodes, &[colour.other()]);
            collected(&cluster)
        });
        let courses =
            [Source::Archive, Source::Engine].map(|source| calibrate(&pair, source, &cluster));
        run::tell(&format!("loads that nobody disturbs: {courses:?}"));
        pair.forget(&cluster.nodes, &Colour::BOTH);
        Self {
            cluster,
            pair,
            targets,
            remote: proxy::start(),
            random: fastrand::Rng::with_seed(seed),
            empty,
            alone,
            courses,
            tally: Tally::default(),
        }
    }

    /// Strikes one load and mends what it left. Returns what the nodes hold afterwards.
    fn turn(&mut self, n: usize, from: Holds) -> Holds {
        let random = &mut self.random;
        let new = from.map_or_else(|| *pick(random, &Colour::BOTH), Colour::other);
        // An engine's own time would outweigh the rest.
        let source = match random.u8(0..5) {
            0 => Source::Engine,
            1 | 2 => Source::Folder,
            _ => Source::Archive,
        };
        let holds = self.strike(n, from, new, source);

        // The next run, with this image or with the former one, makes the nodes equal.
        let wanted = match from {
            Some(old) if self.random.u8(0..4) == 0 => old,
            _ => new,
        };
        let mut mend = self.pair.load(wanted, source, &self.cluster.name);
        let began = Instant::now();
        run::run(&mut mend).expect(0);
        if wanted == new && holds.iter().all(|holds| *holds == from) {
            // One that staged everything tells how busy the machine is by now.
            let course = &mut self.courses[usize::from(source == Source::Engine)];
            course.whole = course.whole.mul_f64(0.7) + began.elapsed().mul_f64(0.3);
        }
        let holds = self.pair.holds(&self.cluster.nodes);
        assert!(
            holds.iter().all(|holds| *holds == Some(wanted)),
            "{holds:?}"
        );
        lab::on_each(&self.cluster.nodes, |node| {
            assert_eq!(lab::leases(node), [].into(), "{node}");
            assert_eq!(Node::of(node).ingests, [].into(), "{node}");
        });
        // Now and then the tag is not there before.
        if self.random.u8(0..5) == 0 {
            self.pair.forget(&self.cluster.nodes, &Colour::BOTH);
            self.is(&self.empty);
            return None;
        }
        self.pair.forget(&self.cluster.nodes, &[wanted.other()]);
        self.is(&self.alone[wanted as usize]);
        Some(wanted)
    }

    /// Strikes a load of `new` at some moment. Returns what the nodes hold then, which is one of
    /// the two images, whole.
    fn strike(&mut self, n: usize, from: Holds, new: Colour, source: Source) -> Vec<Holds> {
        let random = &mut self.random;
        // Each of them now and then, kindlift itself most often.
        let strike = match n % 2 {
            0 => Strike::Kindlift,
            _ => Strike::ALL[1 + (n / 2) % (Strike::ALL.len() - 1)],
        };
        let course = self.courses[usize::from(source == Source::Engine)];
        let node = pick(random, &self.targets);
        let mut kindlift = self.pair.load(new, source, &self.cluster.name);
        match strike {
            Strike::Pause => {
                kindlift.args(["--stall-timeout", "2"]);
            }
            // Only there it is a process.
            Strike::Exec => {
                kindlift.env("DOCKER_HOST", &self.remote);
            }
            _ => {}
        }
        let began = Instant::now();
        let mut running = run::start(&mut kindlift);
        // Mostly anywhere in the course; sometimes where names change, which is short.
        match random.u8(0..8) {
            0 => aim(&mut running, random, Phase::Name, course.naming),
            1 => aim(&mut running, random, Phase::Prove, course.proof),
            _ => {
                let moment = course.whole.mul_f64(random.f64());
                sleep_until(began + moment);
            }
        }
        // On a busy machine it may end by itself, or fail.
        let hit = !running.has_ended() && strike.hit(&running, node);
        let moment = began.elapsed().div_duration_f64(course.whole);
        let mut said = running.stderr();
        if hit {
            strike.undo_early(node, Duration::from_millis(random.u64(100..1500)));
        }
        let run = running.finish();
        if hit {
            strike.undo(node);
        }
        if run.code == 128 + 9 {
            said.clone_from(&run.stderr);
        }
        let phase = Phase::of(&said);

        let holds = self.pair.holds(&self.cluster.nodes);
        run::tell(&format!(
            "run {n}: {source:?} {from:?} -> {new:?}: {} on {} in {phase:?} at {:.0} %: exit {}, {holds:?}",
            strike.name(),
            node.name,
            moment * 100.0,
            run.code
        ));
        let allowed = [from, Some(new)];
        assert!(holds.iter().all(|holds| allowed.contains(holds)), "{run}");
        match run.code {
            0 => assert!(holds.iter().all(|holds| *holds == Some(new)), "{run}"),
            137 => assert_eq!(strike, Strike::Kindlift, "{run}"),
            // What it could not give back it has to tell.
            _ if run.stderr.contains("could not be given back") => {}
            _ => assert!(holds.iter().all(|holds| *holds == from), "{run}"),
        }
        if hit {
            self.tally.count(phase, strike, moment, from, &holds);
        } else {
            self.tally.count_missed();
        }
        holds
    }

    /// Requires that the nodes hold exactly that, once containerd has collected.
    fn is(&self, clean: &[Node]) {
        let mut last = Vec::new();
        let end = Instant::now() + Duration::from_secs(20);
        while Instant::now() < end {
            last = self.cluster.state();
            if last == clean {
                return;
            }
        }
        assert_eq!(last, clean, "something that was staged is left");
    }
}

/// What is on all nodes once containerd has collected what nothing holds.
fn collected(cluster: &Cluster) -> Vec<Node> {
    lab::on_each(&cluster.nodes, |node| {
        let prune = ["ctr", "-n", "k8s.io", "content", "prune", "references"];
        lab::exec(node, &prune).expect(0);
        Node::of(node)
    })
}

/// Loads an image that the nodes do not have, three times; the slowest and the fastest do not
/// count.
fn calibrate(pair: &Pair, source: Source, cluster: &Cluster) -> Course {
    let mut courses: Vec<Course> = [Colour::Red, Colour::Blue, Colour::Red]
        .map(|colour| {
            pair.forget(&cluster.nodes, &Colour::BOTH);
            collected(cluster);
            let began = Instant::now();
            let run = run::run(
                pair.load(colour, source, &cluster.name)
                    .args(["--output", "json"]),
            );
            let whole = began.elapsed();
            let phases = run.expect(0).json()["images"][0]["phases"].clone();
            let took = |phase: &str| {
                let at = |edge: &str| phases[phase][edge].as_u64().unwrap();
                Duration::from_millis(at("end_ms") - at("start_ms"))
            };
            Course {
                whole,
                naming: took("name"),
                proof: took("verify"),
            }
        })
        .to_vec();
    courses.sort_by_key(|course| course.whole);
    courses[1]
}

/// Waits for a phase to begin, and then for some of the time that it takes.
fn aim(running: &mut Running, random: &mut fastrand::Rng, phase: Phase, takes: Duration) {
    while !running.has_ended() && !running.stderr().contains(phase.mark()) {
        std::thread::sleep(Duration::from_micros(500));
    }
    sleep_until(Instant::now() + takes.mul_f64(random.f64()));
}

fn sleep_until(moment: Instant) {
    std::thread::sleep(moment.saturating_duration_since(Instant::now()));
}

fn pick<'a, T>(random: &mut fastrand::Rng, all: &'a [T]) -> &'a T {
    &all[random.usize(..all.len())]
}

fn soak(way: &'static str, every: u64) {
    // Each needs the machine for itself: moments are parts of the time that a load takes.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let runs = number("KINDLIFT_SOAK_RUNS").unwrap_or(20).div_ceil(every);
    let seed = number("KINDLIFT_SOAK_SEED").unwrap_or_else(|| fastrand::u64(..1_000_000));
    run::tell(&format!(
        "{runs} runs, {way}; the same choices again: KINDLIFT_SOAK_SEED={seed}"
    ));
    let mut soak = Soak::new(seed, way);
    let began = Instant::now();
    let mut holds = None;
    for n in 0..runs {
        holds = soak.turn(usize::try_from(n).unwrap(), holds);
    }
    run::tell(&format!(
        "{runs} runs, {way}, in {} s, seed {seed}\n{}",
        began.elapsed().as_secs(),
        soak.tally
    ));
}

#[test]
fn killed_at_any_moment() {
    soak("tunnel", 1);
}

/// The same where ctr and crictl are all there is; half as often, because each load takes longer.
#[test]
fn killed_at_any_moment_without_a_tunnel() {
    soak("plain", 2);
}
