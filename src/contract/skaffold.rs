//! Skaffold's custom builder.
//!
//! Source: Skaffold v2 `pkg/skaffold/build/custom/script.go`. Skaffold sets `IMAGE`,
//! `PUSH_IMAGE`, `BUILD_CONTEXT`, `PLATFORMS`, `SKIP_TEST`, `IMAGE_REPO` and `IMAGE_TAG`, and
//! then appends the user's own environment, which wins.

use std::path::PathBuf;

use crate::engine::EngineId;
use crate::env::Env;
use crate::error::{Error, Result};
use crate::image::Platform;
use crate::reference::Reference;

/// Which platforms Skaffold asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Platforms {
    /// It does not say: the nodes' own.
    Nodes,
    /// `all`.
    All,
    /// These.
    Listed(Vec<Platform>),
}

/// A build that Skaffold asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Build {
    /// `$IMAGE`.
    pub image: Reference,
    /// `$PUSH_IMAGE`.
    pub push: bool,
    /// `$BUILD_CONTEXT`.
    pub context: PathBuf,
    /// `$PLATFORMS`.
    pub platforms: Platforms,
}

/// Reads the contract. None, if Skaffold does not run us.
///
/// # Errors
/// Usage error, naming the variable that is missing or does not fit.
pub fn read(env: &Env) -> Result<Option<Build>> {
    let (Some(push), Some(context)) = (env.get("PUSH_IMAGE"), env.path("BUILD_CONTEXT")) else {
        return Ok(None);
    };
    let Some(image) = env.get("IMAGE") else {
        return Err(
            Error::usage("PUSH_IMAGE and BUILD_CONTEXT are set, but IMAGE is not").hint(
                "Skaffold sets all three for a custom builder; by hand, unset them and use --tag",
            ),
        );
    };
    if let (Some(repo), Some(tag)) = (env.get("IMAGE_REPO"), env.get("IMAGE_TAG")) {
        let expected = format!("{repo}:{tag}");
        if image != expected {
            return Err(Error::usage(format!(
                "IMAGE is {image}, but IMAGE_REPO and IMAGE_TAG say {expected}"
            ))
            .hint(
                "a variable exported in your shell shadows Skaffold's: unset IMAGE, IMAGE_REPO \
                 and IMAGE_TAG before you start Skaffold",
            ));
        }
    }
    let push = match push {
        "true" => true,
        "false" => false,
        other => {
            return Err(Error::usage(format!("PUSH_IMAGE is {other:?}"))
                .hint("Skaffold sets it to true or false; unset your own"));
        }
    };
    Ok(Some(Build {
        image: Reference::parse(image).map_err(|e| e.within("IMAGE cannot be used"))?,
        push,
        context,
        platforms: platforms(env.get("PLATFORMS").unwrap_or_default())?,
    }))
}

fn platforms(text: &str) -> Result<Platforms> {
    match text.trim() {
        "" => Ok(Platforms::Nodes),
        "all" => Ok(Platforms::All),
        list => list
            .split(',')
            .map(|platform| platform.trim().parse())
            .collect::<Result<_>>()
            .map(Platforms::Listed)
            .map_err(|e| e.within(format!("PLATFORMS is {list:?}"))),
    }
}

/// Returns the names that must be on every node: `$IMAGE`, and what Skaffold deploys, the
/// repository with the engine's image ID as the tag.
///
/// # Errors
/// Usage error, if no name can be made.
pub fn names(image: &Reference, id: &EngineId) -> Result<Vec<Reference>> {
    Ok(vec![image.clone(), image.with_tag(id.0.hex())?])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(vars: &[(&str, &str)]) -> Env {
        let base = [
            ("IMAGE", "demo/app:1"),
            ("PUSH_IMAGE", "false"),
            ("BUILD_CONTEXT", "/src"),
        ];
        Env::new(base.iter().chain(vars).copied())
    }

    #[test]
    fn reads_what_skaffold_sets() {
        let build = read(&env(&[("PLATFORMS", "linux/amd64"), ("SKIP_TEST", "true")]))
            .unwrap()
            .unwrap();
        assert_eq!(build.image.to_string(), "docker.io/demo/app:1");
        assert!(!build.push);
        assert_eq!(
            build.platforms,
            Platforms::Listed(vec![Platform::linux("amd64", None)])
        );
        let build = read(&env(&[("PLATFORMS", "")])).unwrap().unwrap();
        assert_eq!(build.platforms, Platforms::Nodes);
    }

    #[test]
    fn without_skaffold_there_is_no_contract() {
        assert_eq!(read(&Env::new([("IMAGE", "mine:1")])).unwrap(), None);
    }

    #[test]
    fn a_shadowed_image_is_refused() {
        let error = read(&env(&[("IMAGE_REPO", "demo/app"), ("IMAGE_TAG", "2")])).unwrap_err();
        assert!(error.to_string().contains("demo/app:2"), "{error}");
        assert!(error.next_step().unwrap().contains("shadows"));
    }

    #[test]
    fn a_missing_image_is_told() {
        let error = read(&env(&[("IMAGE", "")])).unwrap_err();
        assert!(error.to_string().contains("IMAGE is not"), "{error}");
    }

    #[test]
    fn odd_values_are_refused() {
        assert!(read(&env(&[("PUSH_IMAGE", "yes")])).is_err());
        assert!(read(&env(&[("PLATFORMS", "linux")])).is_err());
    }

    #[test]
    fn names_the_deployed_reference() {
        let id = EngineId(format!("sha256:{}", "a".repeat(64)).parse().unwrap());
        let names = names(&Reference::parse("app:1").unwrap(), &id).unwrap();
        assert_eq!(
            names[1].to_string(),
            format!("docker.io/library/app:{}", "a".repeat(64))
        );
    }
}
