//! One JSON document on stdout, for programs.

use std::io::Write;

use super::Outcome;
use crate::error::Error;

/// Writes the document of a run: the outcomes, or the error.
pub fn document(result: Result<&[Outcome], &Error>) {
    let document = match result {
        Ok(images) => serde_json::json!({"ok": true, "images": images}),
        Err(error) => serde_json::json!({
            "ok": false,
            "error": {
                "kind": error.kind(),
                "exit_code": error.kind().exit_code(),
                "message": error.to_string(),
                "causes": error.causes(),
                "hint": error.next_step(),
            },
        }),
    };
    let _ = writeln!(std::io::stdout().lock(), "{document:#}");
}
