//! What Skaffold and Tilt tell a command through the environment, and what they expect of it.
//! Pure: reads an [`Env`], does nothing but write Tilt's ref file.

pub mod skaffold;
pub mod tilt;

use crate::engine::EngineId;
use crate::env::Env;
use crate::error::{Error, Result};
use crate::image::ImageId;
use crate::reference::Reference;

/// Who runs us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Contract {
    /// A person or a script.
    Hand,
    /// Skaffold.
    Skaffold(skaffold::Build),
    /// Tilt.
    Tilt(tilt::Build),
}

impl Contract {
    /// Finds out who runs us.
    ///
    /// # Errors
    /// Usage error, if a variable does not fit, or both set theirs.
    pub fn read(env: &Env) -> Result<Self> {
        match (skaffold::read(env)?, tilt::read(env)?) {
            (Some(_), Some(_)) => Err(Error::usage(
                "the environment has both Skaffold's variables (PUSH_IMAGE, BUILD_CONTEXT) and Tilt's (EXPECTED_REF)",
            )
            .hint("unset those that your shell exports")),
            (Some(build), None) => Ok(Self::Skaffold(build)),
            (None, Some(build)) => Ok(Self::Tilt(build)),
            (None, None) => Ok(Self::Hand),
        }
    }

    /// Returns the name that is asked for.
    pub fn image(&self) -> Option<&Reference> {
        match self {
            Self::Hand => None,
            Self::Skaffold(build) => Some(&build.image),
            Self::Tilt(build) => Some(&build.image),
        }
    }

    /// Returns the tool's name, for messages.
    pub fn tool(&self) -> &'static str {
        match self {
            Self::Hand => "you",
            Self::Skaffold(_) => "Skaffold",
            Self::Tilt(_) => "Tilt",
        }
    }
}

/// Which names an image gets on the nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Naming {
    /// The one that was asked for.
    AsAsked,
    /// That, and what Skaffold deploys.
    Skaffold,
    /// That, and what Tilt deploys.
    Tilt,
    /// One made of the content; and the one that was asked for, if it had a tag.
    Content,
}

impl Naming {
    /// Returns the names, the one that is deployed last.
    ///
    /// # Errors
    /// Usage error, if no name can be made.
    pub fn names(
        self,
        image: &Reference,
        engine: &EngineId,
        id: &ImageId,
    ) -> Result<Vec<Reference>> {
        match self {
            Self::Content => {
                let mut names = self.known(image, engine)?;
                names.push(tilt::content_name(image, id)?);
                Ok(names)
            }
            Self::AsAsked | Self::Skaffold | Self::Tilt => self.known(image, engine),
        }
    }

    /// Returns the first of the names, if it can be known before there is an image.
    pub fn first(self, image: &Reference) -> Option<&Reference> {
        match self {
            Self::AsAsked | Self::Skaffold | Self::Tilt => Some(image),
            Self::Content => image.had_tag().then_some(image),
        }
    }

    /// Returns those of the names that can be known before the image's content is, in the same order.
    ///
    /// # Errors
    /// Usage error, if no name can be made.
    pub fn known(self, image: &Reference, engine: &EngineId) -> Result<Vec<Reference>> {
        match self {
            Self::AsAsked => Ok(vec![image.clone()]),
            Self::Skaffold => skaffold::names(image, engine),
            Self::Tilt => tilt::names(image, engine),
            Self::Content => Ok(self.first(image).cloned().into_iter().collect()),
        }
    }
}

/// Finds the image that a command without arguments is about, in Skaffold's or Tilt's
/// environment, and how it is named. None, if there is none or it was pushed.
///
/// Skaffold passes `IMAGE` to builders (with `PUSH_IMAGE`) and to tests (alone: the deployed
/// reference), and `SKAFFOLD_IMAGE` to build hooks.
///
/// # Errors
/// Usage error, if a variable does not fit.
pub fn subject(env: &Env) -> Result<Option<(Reference, Naming)>> {
    match Contract::read(env)? {
        Contract::Skaffold(build) => {
            return Ok((!build.push).then_some((build.image, Naming::Skaffold)));
        }
        Contract::Tilt(build) => return Ok(Some((build.image, Naming::Tilt))),
        Contract::Hand => {}
    }
    if let Some(image) = env.get("SKAFFOLD_IMAGE") {
        if env.get("SKAFFOLD_PUSH_IMAGE") == Some("true") {
            return Ok(None);
        }
        let image =
            Reference::parse(image).map_err(|e| e.within("SKAFFOLD_IMAGE cannot be used"))?;
        return Ok(Some((image, Naming::Skaffold)));
    }
    if let Some(image) = env.get("IMAGE") {
        let image = Reference::parse(image).map_err(|e| e.within("IMAGE cannot be used"))?;
        return Ok(Some((image, Naming::AsAsked)));
    }
    Err(Error::usage("no image was named").hint(
        "name one, or run this under Skaffold or Tilt (IMAGE, SKAFFOLD_IMAGE or EXPECTED_REF)",
    ))
}

/// Tells whether Skaffold or Tilt is at work: then no cluster is guessed.
pub fn in_loop(env: &Env) -> bool {
    is_run_by(env) || env.get("SKAFFOLD_KUBE_CONTEXT").is_some()
}

/// Tells whether Skaffold or Tilt runs us, and so reads what we print. A kube context is exported by
/// people too.
pub fn is_run_by(env: &Env) -> bool {
    ["IMAGE", "SKAFFOLD_IMAGE", "EXPECTED_REF", "TILT_HOST"]
        .iter()
        .any(|name| env.get(name).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_hook_names_the_deployed_reference_itself() {
        let (image, naming) = subject(&Env::new([("IMAGE", "app:abc")])).unwrap().unwrap();
        assert_eq!(
            (image.familiar().as_str(), naming),
            ("app:abc", Naming::AsAsked)
        );
    }

    #[test]
    fn a_build_hook_and_a_pushed_image() {
        let env = Env::new([
            ("SKAFFOLD_IMAGE", "app:1"),
            ("SKAFFOLD_PUSH_IMAGE", "false"),
        ]);
        assert_eq!(subject(&env).unwrap().unwrap().1, Naming::Skaffold);
        let env = env.with("SKAFFOLD_PUSH_IMAGE", Some("true"));
        assert_eq!(subject(&env).unwrap(), None);
    }

    #[test]
    fn nothing_named_is_an_error() {
        assert!(
            subject(&Env::default())
                .unwrap_err()
                .to_string()
                .contains("no image")
        );
    }

    #[test]
    fn both_contracts_at_once_are_refused() {
        let env = Env::new([
            ("IMAGE", "a:1"),
            ("PUSH_IMAGE", "false"),
            ("BUILD_CONTEXT", "/"),
            ("EXPECTED_REF", "a:1"),
        ]);
        assert!(Contract::read(&env).is_err());
    }
}
