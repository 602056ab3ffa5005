//! One JSON document on stdout, for programs.

use std::io::Write;

use serde::Serialize;

use crate::error::Error;

/// Writes the document of a run: what it did or found, beside whether that is `ok`; or the error.
pub fn document<T: Serialize>(result: Result<(bool, &T), &Error>) {
    #[derive(Serialize)]
    struct Answer<'a, T> {
        ok: bool,
        #[serde(flatten)]
        answer: &'a T,
    }
    let document = match result {
        Ok((ok, answer)) => serde_json::to_value(Answer { ok, answer })
            .expect("answers have no keys that are no text"),
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
