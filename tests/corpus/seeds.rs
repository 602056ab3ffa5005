//! What fuzzing begins with (scripts/fuzz.sh): the corpus, and names.

use std::path::Path;

use kindlift::image::Digest;

use crate::make::{self, Input, Piece};

/// Larger inputs are slow, and find no more.
const MAX_SEED: usize = 64 << 10;

const NAMES: [&str; 14] = [
    "app",
    "app:dev",
    "demo/app:v1.2_3-4",
    "localhost/x:1",
    "localhost:5000/x",
    "reg.example:5000/a/b__c/d---e:T",
    "[::1]:5000/x:1",
    "index.docker.io/library/app",
    "docker.io/localhost/x:1",
    "docker.io/a.b/c",
    "app@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "r.io/app:v1@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "library/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "Upper/x",
];

/// Fills a folder for each target below the folder that cargo gives tests.
#[test]
fn seeds_are_written() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("seeds");
    let write = |target: &str, n: usize, bytes: &[u8]| {
        let folder = folder.join(target);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(n.to_string()), bytes).unwrap();
    };
    let image = "docker.io/library/seed";
    let sound = make::sound::all("seed", image).into_iter();
    let broken = make::broken::all("seed", image).into_iter();
    let inputs = sound
        .map(|sound| sound.input)
        .chain(broken.map(|kind| kind.input));
    let mut archives = 0;
    for input in inputs {
        if let Input::File(pieces) = input
            && let [Piece::Bytes(bytes)] = pieces.as_slice()
            && bytes.len() <= MAX_SEED
        {
            write("archive", archives, bytes);
            archives += 1;
        }
    }
    assert!(archives > 100, "only {archives}");
    for (n, name) in NAMES.iter().enumerate() {
        write("reference", n, name.as_bytes());
    }
    // A tree is drawn from bytes: any will do, where there are enough.
    for n in 0..64 {
        let hex: String = (0..4 * (n + 1))
            .map(|i| Digest::of(format!("{n} {i}").as_bytes()).hex().to_owned())
            .collect();
        let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        let bytes: Vec<u8> = (0..hex.len()).step_by(2).map(byte).collect();
        write("chooser", n, &bytes);
    }
}
