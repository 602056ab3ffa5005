//! Broken archives against the real program and real nodes: each is refused with its own words,
//! in little memory, and leaves the nodes as they were. And their sound siblings, which load.
//!
//! Everything is made when the test runs; see `make`.

mod make;
mod seeds;

#[expect(dead_code, reason = "the tests on the lab use all of it")]
#[path = "../support/lab.rs"]
mod lab;
#[expect(dead_code, reason = "the tests on the lab use all of it")]
#[path = "../support/run.rs"]
mod run;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use make::Input;
use make::broken::Kind;
use make::sound::Sound;
use run::Run;
use tempfile::TempDir;

/// The most memory that kindlift may take, in kB.
const MAX_MEMORY: u64 = 64 << 10;

/// Held by tests that change the nodes, or look whether somebody has.
static NODES: Mutex<()> = Mutex::new(());

/// Broken archives that are loaded at the same time, before the nodes are looked at.
const AT_ONCE: usize = 6;

/// Runs `kindlift load PATH`; returns the most memory that it took too, in kB.
fn load(path: &Path) -> (Run, u64) {
    let mut command = lab::kindlift();
    command.arg("load").arg(path).args(["--cluster", "dev"]);
    // Six at once on a machine that has other work: how long a node is silent is not what counts here.
    command.args(["--stall-timeout", "60"]);
    let running = run::start(&mut command);
    let pid = running.pid();
    // The mark goes with the process: what its last millisecond adds is not seen.
    let watch = std::thread::spawn(move || {
        let mut peak = 0;
        while is_there(pid) {
            peak = run::high_water(pid).unwrap_or(peak);
            std::thread::sleep(Duration::from_millis(1));
        }
        peak
    });
    (running.finish(), watch.join().unwrap())
}

/// Tells whether there is a process, or what is left of it until somebody waits for it.
fn is_there(pid: i32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

/// Puts an input into a folder, under its name.
fn write(folder: &TempDir, name: &str, input: &Input) -> PathBuf {
    let name: String = name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    let path = folder.path().join(match input {
        Input::File(_) => format!("{name}.tar"),
        Input::Folder(_) => name,
    });
    input.write(&path);
    path
}

fn state() -> Vec<lab::Node> {
    lab::on_each(&lab::dev(), lab::Node::of)
}

/// Loads what is broken; returns what is wrong with how it was refused, and the memory it took.
fn refused(folder: &TempDir, kind: &Kind) -> (Vec<String>, u64) {
    let path = write(folder, kind.name, &kind.input);
    let (run, peak) = load(&path);
    remove(&path);
    let mut wrong = Vec::new();
    if run.code != kind.code {
        wrong.push(format!("exit code {}, not {}", run.code, kind.code));
    }
    if !run.stderr.contains(kind.says) {
        wrong.push(format!("does not say {:?}", kind.says));
    }
    if !run.stderr.contains("hint: ") {
        wrong.push("says no next step".to_owned());
    }
    if run.stderr.contains("panicked") || run.stderr.contains('\u{1b}') {
        wrong.push("panics, or writes what it likes to the terminal".to_owned());
    }
    if peak == 0 || peak > MAX_MEMORY {
        wrong.push(format!("has taken {peak} kB"));
    }
    let wrong = wrong.into_iter();
    let wrong = wrong
        .map(|what| format!("{}: {what}\n{run}", kind.name))
        .collect();
    (wrong, peak)
}

#[test]
fn each_broken_archive_is_refused_in_its_own_words() {
    let name = format!("docker.io/kindlift-test/{}:dev", lab::unique("corpus"));
    let kinds = make::broken::all(&lab::unique("salt"), &name);
    let folder = TempDir::with_prefix("kindlift-corpus-").unwrap();
    let _alone = NODES.lock().unwrap_or_else(PoisonError::into_inner);
    let (mut wrong, mut most) = (Vec::new(), 0);
    let began = Instant::now();
    let mut before = state();
    for some in kinds.chunks(AT_ONCE) {
        let results: Vec<_> = std::thread::scope(|scope| {
            let runs = some
                .iter()
                .map(|kind| scope.spawn(|| refused(&folder, kind)));
            let runs: Vec<_> = runs.collect();
            runs.into_iter().map(|run| run.join().unwrap()).collect()
        });
        for (complaints, peak) in results {
            wrong.extend(complaints);
            most = most.max(peak);
        }
        let after = state();
        if after != before {
            let names: Vec<&str> = some.iter().map(|kind| kind.name).collect();
            wrong.push(format!(
                "one of {names:?} has changed the nodes:\n{before:?}\n{after:?}"
            ));
            before = after;
        }
    }
    println!(
        "{} kinds of broken archives in {} s, at most {most} kB of memory",
        kinds.len(),
        began.elapsed().as_secs()
    );
    assert!(kinds.len() >= 40);
    assert!(
        wrong.is_empty(),
        "{} are wrong:\n\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[test]
fn each_sound_archive_loads() {
    let _alone = NODES.lock().unwrap_or_else(PoisonError::into_inner);
    let repository = format!("docker.io/kindlift-test/{}", lab::unique("sound"));
    let folder = TempDir::with_prefix("kindlift-corpus-").unwrap();
    let before = state();
    for some in make::sound::all(&lab::unique("salt"), &repository).chunks(AT_ONCE) {
        std::thread::scope(|scope| {
            for sound in some {
                scope.spawn(|| loads(&folder, sound));
            }
        });
    }
    // crictl's removal does not wait for the collection.
    run::wait_until("the nodes are as they were", run::DEADLINE, || {
        state() == before
    });
}

fn loads(folder: &TempDir, sound: &Sound) {
    let what = sound.what;
    let (run, peak) = load(&write(folder, what, &sound.input));
    assert_eq!(run.code, 0, "{what}:\n{run}");
    assert!(peak > 0 && peak <= MAX_MEMORY, "{what} has taken {peak} kB");
    let id = lab::proven(&lab::dev(), std::slice::from_ref(&sound.name));
    let removed = lab::on_each(&lab::dev(), |node| lab::exec(node, &["crictl", "rmi", &id]));
    removed.into_iter().for_each(|run| drop(run.expect(0)));
}

fn remove(path: &Path) {
    match path.is_dir() {
        true => std::fs::remove_dir_all(path).unwrap(),
        false => std::fs::remove_file(path).unwrap(),
    }
}

#[test]
fn names_of_kinds_are_their_own() {
    let kinds = make::broken::all("salt", "docker.io/library/x:1");
    let names: std::collections::BTreeSet<&str> = kinds.iter().map(|kind| kind.name).collect();
    assert_eq!(names.len(), kinds.len());
}

/// A child that has not run `exec` yet has the memory of the test, and must not be taken for kindlift.
#[test]
fn memory_of_the_test_is_not_kindlifts() {
    let own = i32::try_from(std::process::id()).unwrap();
    assert!(is_there(own));
    assert_eq!(run::high_water(own), None);
}
