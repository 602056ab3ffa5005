//! What must be refused, and with which words.

mod docker;
mod images;
mod layouts;
mod tars;

use super::{Files, Input};

/// One way in which an archive is broken or foreign.
pub struct Kind {
    pub name: &'static str,
    /// kindlift's exit code.
    pub code: i32,
    /// What it must say.
    pub says: &'static str,
    pub input: Input,
}

fn kind(name: &'static str, says: &'static str, input: Input) -> Kind {
    Kind {
        name,
        code: 6,
        says,
        input,
    }
}

fn tar(name: &'static str, says: &'static str, tar: Vec<u8>) -> Kind {
    kind(name, says, Input::bytes(tar))
}

fn files(name: &'static str, says: &'static str, files: &Files) -> Kind {
    tar(name, says, files.tar())
}

/// Returns all kinds. The archives name their images `image`, where they get to it; the salt makes
/// layers that no node has.
pub fn all(salt: &str, image: &str) -> Vec<Kind> {
    let mut kinds = tars::all(salt, image);
    kinds.extend(layouts::all(salt, image));
    kinds.extend(images::all(salt, image));
    kinds.extend(docker::all(salt, image));
    kinds
}
