//! One JSON document on stdout, for programs.

use std::io::Write;

use serde::Serialize;

use crate::error::Error;

/// Writes the document of a run: what it did or found, beside `ok`; or the error.
///
/// A run that has done its work may have found that not all is `ok`.
pub fn document<T: Serialize>(ok: bool, result: Result<&T, &Error>) {
    #[derive(Serialize)]
    struct Good<'a, T> {
        ok: bool,
        #[serde(flatten)]
        answer: &'a T,
    }
    let document = match result {
        Ok(answer) => serde_json::to_value(Good { ok, answer })
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
