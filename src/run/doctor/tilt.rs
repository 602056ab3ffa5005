//! Tilt's settings in the folder at hand. A Tiltfile is a program: it is not run, only looked
//! through for what every `custom_build` with kindlift needs.

use std::path::Path;

use super::Check;

/// Looks through the Tiltfile of a folder.
pub fn look(folder: &Path) -> Check {
    match std::fs::read_to_string(folder.join("Tiltfile")) {
        Ok(text) => judge(&text),
        Err(_) => Check::skipped("tilt", "no Tiltfile in this folder"),
    }
}

fn judge(text: &str) -> Check {
    let name = "tilt";
    let code: String = text
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default())
        .collect::<Vec<_>>()
        .join("\n");
    let has = |word: &str| code.contains(word);
    if !has("kindlift") {
        return Check::warn(
            name,
            "Tiltfile: nothing is built with kindlift",
            "custom_build('NAME', 'exec kindlift build -t NAME --ref-file .kindlift-ref .', …)",
        );
    }
    match (
        has("--ref-file"),
        has("outputs_image_ref_to"),
        has("skips_local_docker"),
    ) {
        (true, true, true) => Check::ok(
            name,
            "Tiltfile: kindlift chooses the tag, and Tilt loads nothing (ref file)",
        ),
        (true, true, false) => Check::warn(
            name,
            "Tiltfile: without skips_local_docker Tilt looks for the image in Docker, and loads it again",
            "add `skips_local_docker=True` to the custom_build",
        ),
        (true, false, _) => Check::warn(
            name,
            "Tiltfile: --ref-file is written, but Tilt does not read it",
            "add `outputs_image_ref_to=` with the same file, and `skips_local_docker=True`",
        ),
        (false, true, _) => Check::warn(
            name,
            "Tiltfile: Tilt reads a ref file (outputs_image_ref_to) that kindlift is not told to write",
            "add `--ref-file` with the same file, and `-t NAME`, to the command",
        ),
        (false, false, _) if has("disable_push") => Check::ok(
            name,
            "Tiltfile: Tilt finds the image in Docker, and loads nothing (disable_push)",
        ),
        (false, false, true) => Check::warn(
            name,
            "Tiltfile: with skips_local_docker alone each build has a new tag, and all pods restart",
            "add `outputs_image_ref_to='.kindlift-ref'`, and `--ref-file .kindlift-ref` to the command",
        ),
        (false, false, false) => Check::warn(
            name,
            "Tiltfile: Tilt runs `kind load` too after each build",
            "add `disable_push=True` to the custom_build, or use a ref file",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::doctor::Verdict;

    #[test]
    fn the_examples_are_good() {
        for code in [
            "custom_build('a', 'exec kindlift build -t a --ref-file .r .', deps=['.'], \
             skips_local_docker=True, outputs_image_ref_to='.r')",
            "custom_build('a', 'exec kindlift build .', deps=['.'], disable_push=True)",
        ] {
            assert_eq!(judge(code).verdict, Verdict::Ok, "{code}");
        }
    }

    #[test]
    fn each_trap_is_seen() {
        for (code, finding) in [
            ("docker_build('a', '.')  # kindlift", "nothing is built"),
            ("'kindlift build .'", "`kind load` too"),
            ("'kindlift build .' skips_local_docker", "new tag"),
            (
                "'kindlift build -t a --ref-file r' skips_local_docker",
                "does not read it",
            ),
            (
                "'kindlift build .' skips_local_docker outputs_image_ref_to",
                "not told to write",
            ),
            (
                "'kindlift build --ref-file r' outputs_image_ref_to",
                "in Docker, and loads",
            ),
        ] {
            let check = judge(code);
            assert_eq!(check.verdict, Verdict::Warn, "{code}");
            assert!(check.finding.contains(finding), "{code}: {check:?}");
        }
    }
}
