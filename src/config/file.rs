//! `kindlift.toml`: which one counts, and what it says.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::{FILE, Form, SETTINGS, Setting, Source, Value};
use crate::error::{Error, Result};

/// How alike an unknown key and a known one must be to be taken for a typing error.
const ALIKE: f64 = 0.8;

/// Looks for the file in a folder and those above it. The folder of the repository (with `.git`)
/// is the last to be looked at; home, `/` and folders in which everybody may put files, such as
/// `/tmp`, are not looked at on the way up: their file would be no project's.
pub(super) fn find(folder: &Path, home: Option<&Path>) -> Option<PathBuf> {
    for (above, folder) in folder.ancestors().enumerate() {
        if above > 0 && (Some(folder) == home || folder.parent().is_none() || is_shared(folder)) {
            return None;
        }
        let file = folder.join(FILE);
        if file.exists() {
            return Some(file);
        }
        if folder.join(".git").exists() {
            return None;
        }
    }
    None
}

/// Tells whether everybody may make files in a folder and nobody may remove another's.
fn is_shared(folder: &Path) -> bool {
    const STICKY_AND_WRITABLE: u32 = 0o1002;
    folder
        .metadata()
        .is_ok_and(|meta| meta.permissions().mode() & STICKY_AND_WRITABLE == STICKY_AND_WRITABLE)
}

/// Reads the file. Keys stand at its top or in a table `[kindlift]`.
///
/// # Errors
/// Usage error, naming the file and the line.
pub(super) fn read(path: &Path) -> Result<Vec<(&'static str, Value)>> {
    let text = std::fs::read_to_string(path)
        .map_err(|e| Error::usage(format!("cannot read {}", path.display())).because(e))?;
    let at = |offset: usize| {
        let before = text.as_bytes().iter().take(offset);
        let line = 1 + before.filter(|byte| **byte == b'\n').count();
        format!("{}:{line}", path.display())
    };
    let document = DeTable::parse(&text).map_err(|e| {
        let place = at(e.span().map_or(0, |span| span.start));
        Error::usage(format!("{place}: {}", e.message().trim()))
            .hint("the file is TOML: `engine = \"podman\"`, one setting a line")
    })?;
    let top = document.get_ref();
    let table = top
        .get("kindlift")
        .and_then(|value| value.get_ref().as_table());
    let entries = top
        .iter()
        .filter(|(key, _)| table.is_none() || key.get_ref() != "kindlift")
        .chain(table.into_iter().flatten());
    let mut values: Vec<(&'static str, Value)> = Vec::new();
    for (key, value) in entries {
        let place = at(key.span().start);
        let setting = setting(key.get_ref(), &place)?;
        if values.iter().any(|(other, _)| *other == setting.key) {
            return Err(
                Error::usage(format!("{place}: {} is set twice", setting.key))
                    .hint("leave one of the two out"),
            );
        }
        let parts = parts(setting.form, value.get_ref()).ok_or_else(|| {
            let written = text.get(value.span()).unwrap_or_default();
            Error::usage(format!("{place}: {} is {written}", setting.key)).hint(form(setting))
        })?;
        let source = Source::File(place);
        values.push((setting.key, Value { parts, source }));
    }
    let line_of = |key| {
        let found = values.iter().find(|(other, _)| *other == key);
        found.map(|(_, value)| &value.source)
    };
    if let (Some(_), Some(Source::File(place))) = (line_of("cluster"), line_of("kube-context")) {
        return Err(
            Error::usage(format!("{place}: both cluster and kube-context are set"))
                .hint("they say the same thing: leave one of the two out"),
        );
    }
    Ok(values)
}

/// Finds a setting by its key.
fn setting(name: &str, place: &str) -> Result<&'static Setting> {
    if let Some(setting) = SETTINGS.iter().find(|setting| setting.key == name) {
        return Ok(setting);
    }
    let keys: Vec<&str> = SETTINGS.iter().map(|setting| setting.key).collect();
    let near = keys
        .iter()
        .map(|key| (strsim::jaro_winkler(key, name), *key))
        .filter(|(alike, _)| *alike >= ALIKE)
        .max_by(|(one, _), (other, _)| one.total_cmp(other));
    let hint = match near {
        Some((_, key)) => format!("did you mean {key}?"),
        None => format!("there is {}", keys.join(", ")),
    };
    Err(Error::usage(format!("{place}: there is no setting {name:?}")).hint(hint))
}

/// Returns a value's parts, if it has the form.
fn parts(form: Form, value: &DeValue<'_>) -> Option<Vec<String>> {
    let parts = match (form, value) {
        (Form::Names, DeValue::Array(names)) => names
            .iter()
            .map(|name| name.get_ref().as_str().map(str::to_owned))
            .collect::<Option<Vec<_>>>()
            .filter(|names| !names.is_empty())?,
        (Form::Seconds(_), DeValue::Integer(number)) if number.radix() == 10 => {
            vec![number.as_str().to_owned()]
        }
        (Form::Word(_) | Form::Name, DeValue::String(text)) => vec![text.to_string()],
        _ => return None,
    };
    parts.iter().all(|part| form.allows(part)).then_some(parts)
}

/// Shows what to write.
fn form(setting: &Setting) -> String {
    let key = setting.key;
    match setting.form {
        Form::Word(words) => format!("write {key} = \"{}\"", words.join("\" or \"")),
        Form::Name => format!("write {key} = \"NAME\""),
        Form::Names => format!("write {key} = [\"NAME\", \"NAME\"]"),
        Form::Seconds(most) => format!("write {key} = SECONDS, from 1 to {most}"),
    }
}
