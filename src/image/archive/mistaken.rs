//! What people hand over in place of an archive, told from its bytes.

use std::fs::File;
use std::os::unix::fs::FileExt;

use serde::Deserialize;

use super::store::Store;
use crate::error::{Error, Result};
use crate::image::refused;

/// What to do about an archive that is not whole.
pub(super) const CUT_SHORT: &str = "it was cut short, or changed on its way: save or copy it again, and look at that command's exit status";

/// An engine's message is looked for in so many bytes at the end.
const TAIL: u64 = 16 << 10;

/// Returns the length of a file that may be a tar, in bytes.
///
/// # Errors
/// Image error, if it is surely none: empty, compressed, a web page, an engine's error.
pub(super) fn length(file: &File) -> Result<u64> {
    let metadata = file
        .metadata()
        .map_err(|e| refused("the archive cannot be read").because(e))?;
    if !metadata.is_file() {
        return Err(
            refused("this is no file, and is read in no order but its own")
                .hint("pipe it: `… | kindlift load -`"),
        );
    }
    let mut start = [0; 512];
    let read = file
        .read_at(&mut start, 0)
        .map_err(|e| refused("the archive cannot be read").because(e))?;
    let start = &start[..read];
    if start.is_empty() {
        return Err(refused("the archive is empty")
            .hint("the command that should have written it failed: look at what it said"));
    }
    if let Some(tool) = compressed(start) {
        return Err(
            refused("the archive is compressed as a whole").hint(format!(
                "decompress it on the way: `{tool} FILE | kindlift load -`"
            )),
        );
    }
    let text = start.trim_ascii_start();
    if text.starts_with(b"<") {
        return Err(refused("this is a web page, not an archive")
            .hint("the download needs a login, or another address"));
    }
    if text.starts_with(b"{")
        && let Some(told) = told_by_engine(file, metadata.len())
    {
        return Err(told);
    }
    Ok(metadata.len())
}

/// Returns the tool that decompresses what begins so.
fn compressed(start: &[u8]) -> Option<&'static str> {
    match start {
        [0x1f, 0x8b, ..] => Some("zcat"),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Some("zstdcat"),
        [b'B', b'Z', b'h', ..] => Some("bzcat"),
        [0xfd, b'7', b'z', b'X', ..] => Some("xzcat"),
        _ => None,
    }
}

/// Returns the error that an engine wrote where the archive should go on: its answer has begun,
/// and it has no other place for it.
pub(super) fn told_by_engine(file: &File, length: u64) -> Option<Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Told {
        error: Option<String>,
        message: Option<String>,
        cause: Option<String>,
    }
    let from = length.saturating_sub(TAIL);
    let mut tail = vec![0; usize::try_from(length - from).ok()?];
    file.read_exact_at(&mut tail, from).ok()?;
    let tail = tail.trim_ascii_end();
    // `{"errorDetail":…,"error":…}` from Docker's streams, `{"message":…}` from its API,
    // `{"cause":…,"message":…}` from Podman's.
    let starts = [
        "{\"errorDetail\":",
        "{\"error\":",
        "{\"message\":",
        "{\"cause\":",
    ];
    let at = starts.iter().find_map(|start| {
        tail.windows(start.len())
            .rposition(|window| window == start.as_bytes())
    })?;
    let told: Told = serde_json::from_slice(&tail[at..]).ok()?;
    let told = told.error.or(told.message).or(told.cause)?;
    let what = match from + at as u64 {
        0 => "this is an engine's error, not an archive",
        _ => "the engine broke off while it wrote the archive",
    };
    Some(refused(format!("{what}: {}", told.trim())).hint("mend that, and save again"))
}

/// Makes the error for a tar or a folder that holds no image.
pub(super) fn no_image(store: &Store) -> Error {
    let error = refused("it has neither index.json nor manifest.json");
    if store.has("repositories") {
        return error.hint("Docker before 1.10 wrote it: load and save it with an engine of today");
    }
    if store.has_any_of(&["etc/", "bin/", "usr/", ".dockerenv"]) {
        return error.hint(
            "it looks like a container's files, as `docker export` writes them: \
             save the image with `docker save`",
        );
    }
    error.hint("kindlift reads OCI layouts and archives, and what `docker save` writes")
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn told(text: &str) -> Option<String> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        told_by_engine(&file, text.len() as u64).map(|error| error.to_string())
    }

    #[test]
    fn finds_an_engines_words_at_the_end() {
        let blob = "x".repeat(100_000);
        for (text, says) in [
            (
                r#"{"message":"no such image"}"#,
                "an engine's error, not an archive: no such image",
            ),
            (
                &format!(
                    "{blob}{{\"errorDetail\":{{\"message\":\"full\"}},\"error\":\"full\"}}\r\n"
                ),
                "broke off while it wrote the archive: full",
            ),
            (
                &format!("{blob}{{\"cause\":\"a\",\"message\":\"b\",\"response\":500}}"),
                "the archive: b",
            ),
        ] {
            let told = told(text).unwrap();
            assert!(told.ends_with(says), "{told}");
        }
        for text in [
            "",
            "x",
            r#"{"message":"cut"#,
            r#"{"message":"x"} and more"#,
            r#"{"schemaVersion":2}"#,
        ] {
            assert_eq!(told(text), None, "{text}");
        }
    }

    #[test]
    fn a_pipe_is_no_file() {
        let (reader, _writer) = std::io::pipe().unwrap();
        let file = File::from(std::os::fd::OwnedFd::from(reader));
        let error = length(&file).unwrap_err();
        assert!(error.next_step().unwrap().contains("kindlift load -"));
    }
}
