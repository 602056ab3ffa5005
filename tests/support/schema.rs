//! Whether a document that kindlift writes is as docs/schema.json says.

use std::sync::OnceLock;

use jsonschema::Validator;
use serde_json::{Value, json};

/// Each kind of document, by its name in the schema.
fn kinds() -> &'static [(String, Validator)] {
    static KINDS: OnceLock<Vec<(String, Validator)>> = OnceLock::new();
    KINDS.get_or_init(|| {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/schema.json");
        let text = std::fs::read_to_string(path).unwrap();
        let schema: Value = serde_json::from_str(&text).unwrap();
        let kinds = schema["oneOf"].as_array().unwrap().iter();
        kinds.map(|kind| compile(&schema, kind)).collect()
    })
}

fn compile(schema: &Value, kind: &Value) -> (String, Validator) {
    let at = kind["$ref"].as_str().unwrap();
    let alone = json!({"$schema": schema["$schema"], "$ref": at, "$defs": schema["$defs"]});
    let name = at.rsplit('/').next().unwrap().to_owned();
    (name, jsonschema::validator_for(&alone).unwrap())
}

/// Returns what kind of document this is: exactly one. It has no field that the schema does not
/// tell of, and lacks none.
///
/// # Errors
/// What is wrong with it, as the kind that it is nearest to.
pub fn kind(document: &Value) -> Result<&'static str, String> {
    let wrong = |(name, validator): &'static (String, Validator)| {
        let wrong: Vec<String> = validator
            .iter_errors(document)
            .map(|e| format!("{name}{}: {e}", e.instance_path()))
            .collect();
        (name.as_str(), wrong)
    };
    let (fits, others): (Vec<_>, Vec<_>) = kinds()
        .iter()
        .map(wrong)
        .partition(|(_, wrong)| wrong.is_empty());
    match fits.as_slice() {
        [(name, _)] => Ok(name),
        [] => {
            let nearest = others.into_iter().map(|(_, wrong)| wrong);
            let nearest = nearest.min_by_key(Vec::len).unwrap_or_default();
            Err(nearest.join("\n"))
        }
        several => Err(format!("it is of several kinds: {several:?}")),
    }
}
