//! Reading JSON that somebody else wrote: within limits of depth and count, so that a small
//! document cannot take much memory, and with errors that are safe to print.

use serde::de::DeserializeOwned;

use super::{AGAIN, refused, tame};
use crate::error::Result;

/// How deep values may nest; an image's documents need eight.
const MAX_DEPTH: usize = 64;
/// More values than the documents of any image have.
const MAX_VALUES: usize = 100_000;

/// Reads a document, which `what` names in errors.
///
/// # Errors
/// Image error, if it is no such document, nests too deep or has too many values.
pub(crate) fn read<T: DeserializeOwned>(bytes: &[u8], what: &str) -> Result<T> {
    within_limits(bytes, what)?;
    serde_json::from_slice(bytes).map_err(|e| {
        // serde's message quotes the value that it does not like, however long that is.
        refused(format!("{what} cannot be read"))
            .because(tame(&e.to_string()))
            .hint(AGAIN)
    })
}

/// Counts separators outside strings. Whether it is JSON at all is for serde to say.
fn within_limits(bytes: &[u8], what: &str) -> Result<()> {
    let (mut depth, mut values) = (0_usize, 0_usize);
    let (mut quoted, mut escaped) = (false, false);
    for byte in bytes {
        if quoted {
            quoted = escaped || *byte != b'"';
            escaped = !escaped && *byte == b'\\';
            continue;
        }
        match byte {
            b'"' => quoted = true,
            b'{' | b'[' => {
                depth += 1;
                values += 1;
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b',' | b':' => values += 1,
            _ => {}
        }
        if depth > MAX_DEPTH {
            return Err(refused(format!("{what} nests deeper than {MAX_DEPTH}")).hint(AGAIN));
        }
        if values > MAX_VALUES {
            return Err(refused(format!("{what} has more than {MAX_VALUES} values")).hint(AGAIN));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error<T: DeserializeOwned + std::fmt::Debug>(text: &str) -> String {
        let error = read::<T>(text.as_bytes(), "it").unwrap_err();
        crate::error::one_line(&error).to_string()
    }

    #[test]
    fn counts_depth_and_values_outside_strings() {
        let nested = |depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        read::<serde_json::Value>(nested(MAX_DEPTH).as_bytes(), "it").unwrap();
        assert!(error::<serde_json::Value>(&nested(MAX_DEPTH + 1)).contains("nests deeper"));
        let many = format!("[{}0]", "0,".repeat(MAX_VALUES));
        assert!(error::<serde_json::Value>(&many).contains("more than 100000 values"));
        let text = format!("\"{}\\\"{}\"", "[".repeat(1000), ",".repeat(MAX_VALUES + 1));
        read::<String>(text.as_bytes(), "it").unwrap();
    }

    #[test]
    fn does_not_repeat_long_values() {
        let text = format!("\"{}\"", "x".repeat(1 << 20));
        let said = error::<u32>(&text);
        assert!(
            said.starts_with("it cannot be read: invalid type"),
            "{said:.200}"
        );
        assert!(said.len() < 2000, "{}", said.len());
    }
}
