// What the lab's own command tells: the variables that lead to its engines and programs. No module
// documentation, as the library's example includes this file, too.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The lab's own command.
pub fn command() -> PathBuf {
    match std::env::var_os("KINDLIFT_LAB_BIN") {
        Some(path) => path.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lab/lab"),
    }
}

/// Returns what `lab env` sets, and no more: PATH, `DOCKER_HOST`, …
///
/// # Errors
/// What the lab says, if it is not up.
pub fn of_the_lab() -> Result<BTreeMap<String, String>, String> {
    let program = command();
    let exports = Command::new(&program)
        .arg("env")
        .output()
        .map_err(|e| format!("{}: {e}", program.display()))?;
    if !exports.status.success() {
        return Err(String::from_utf8_lossy(&exports.stderr).into_owned());
    }
    let script = String::from_utf8_lossy(&exports.stdout);
    let output = Command::new("/bin/sh")
        .env_clear()
        .env("PATH", std::env::var("PATH").unwrap_or_default())
        .args(["-c", &format!("{script}\nexec env -0")])
        .output()
        .map_err(|e| e.to_string())?;
    Ok(String::from_utf8_lossy(&output.stdout)
        .split('\0')
        .filter_map(|pair| pair.split_once('='))
        .filter(|(name, _)| {
            *name == "PATH" || name.starts_with("DOCKER_") || name.starts_with("KINDLIFT_LAB_")
        })
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect())
}
