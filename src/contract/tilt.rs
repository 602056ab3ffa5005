//! Tilt's `custom_build`.
//!
//! Source: Tilt v0.37 `internal/build/custom_builder.go`. Without `outputs_image_ref_to`, Tilt
//! sets `EXPECTED_REF` and afterwards looks it up in Docker and deploys it under a tag made of
//! the image ID. With it, nothing is set, and the file's content is deployed as it is.

use std::io::Write;
use std::path::Path;

use crate::engine::EngineId;
use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};
use crate::image::ImageId;
use crate::reference::Reference;

/// How many hex digits of an ID make a tag: as many as Tilt takes.
const DIGITS: usize = 16;

/// A build that Tilt asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Build {
    /// `$EXPECTED_REF`.
    pub image: Reference,
    /// `$EXPECTED_REGISTRY`: Tilt found a registry and will push there by itself.
    pub registry: Option<String>,
}

/// Reads the contract. None, if Tilt does not run us, or with `outputs_image_ref_to`.
///
/// # Errors
/// Usage error, if `EXPECTED_REF` is no image name.
pub fn read(env: &Env) -> Result<Option<Build>> {
    let Some(image) = env.get("EXPECTED_REF") else {
        return Ok(None);
    };
    Ok(Some(Build {
        image: Reference::parse(image).map_err(|e| e.within("EXPECTED_REF cannot be used"))?,
        registry: env.get("EXPECTED_REGISTRY").map(str::to_owned),
    }))
}

/// Returns the names that must be on every node: `$EXPECTED_REF`, and what Tilt deploys.
///
/// # Errors
/// Usage error, if no name can be made.
pub fn names(image: &Reference, id: &EngineId) -> Result<Vec<Reference>> {
    let deployed = image.with_tag(&format!("tilt-{}", &id.0.hex()[..DIGITS]))?;
    Ok(vec![image.clone(), deployed])
}

/// Returns the name for a ref file: its tag is made of the image's content alone, so that pods
/// roll when the image changed and only then.
///
/// # Errors
/// Usage error, if no name can be made.
pub fn content_name(image: &Reference, id: &ImageId) -> Result<Reference> {
    image.with_tag(&format!("kindlift-{}", &id.0.hex()[..DIGITS]))
}

/// Writes the ref file whole or not at all.
///
/// # Errors
/// Internal error, naming the file; the image is on every node all the same.
pub fn write_ref_file(path: &Path, name: &Reference) -> Result<()> {
    let failed = |e: std::io::Error| {
        Error::new(
            ErrorKind::Internal,
            format!("cannot write the ref file {}", path.display()),
        )
        .because(e)
    };
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
    writeln!(file, "{}", name.familiar()).map_err(failed)?;
    // Tilt runs as another user in some set-ups; the default of temporary files is 0600.
    use std::os::unix::fs::PermissionsExt;
    file.as_file()
        .set_permissions(std::fs::Permissions::from_mode(0o644))
        .map_err(failed)?;
    file.persist(path).map_err(|e| failed(e.error))?;
    Ok(())
}

/// Reads the name out of a ref file.
///
/// # Errors
/// Image error, if there is no such file yet or it holds no name: a build will write it.
pub fn read_ref_file(path: &Path) -> Result<Reference> {
    let failed = |why: &str| {
        Error::new(
            ErrorKind::Image,
            format!("the ref file {} {why}", path.display()),
        )
        .hint("`kindlift build --ref-file` writes it")
    };
    let text = std::fs::read_to_string(path).map_err(|e| failed("cannot be read").because(e))?;
    Reference::parse(text.trim()).map_err(|e| failed("names no image").because(e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_what_tilt_deploys() {
        let env = Env::new([("EXPECTED_REF", "example/api:tilt-build-1")]);
        let build = read(&env).unwrap().unwrap();
        let id = format!("sha256:{}", "0123456789abcdef".repeat(4));
        let names = names(&build.image, &EngineId(id.parse().unwrap())).unwrap();
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        assert_eq!(
            names,
            [
                "docker.io/example/api:tilt-build-1",
                "docker.io/example/api:tilt-0123456789abcdef"
            ]
        );
    }

    #[test]
    fn without_expected_ref_there_is_no_contract() {
        assert_eq!(read(&Env::default()).unwrap(), None);
    }

    #[test]
    fn the_ref_file_replaces_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ref");
        std::fs::write(&path, "old").unwrap();
        write_ref_file(&path, &Reference::parse("app:x").unwrap()).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "app:x\n");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        assert_eq!(read_ref_file(&path).unwrap().familiar(), "app:x");
    }

    #[test]
    fn a_ref_file_that_is_not_written_yet() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ref");
        assert_eq!(read_ref_file(&path).unwrap_err().kind(), ErrorKind::Image);
        std::fs::write(&path, "").unwrap();
        let error = read_ref_file(&path).unwrap_err();
        assert!(error.to_string().ends_with("names no image"), "{error}");
    }
}
