//! What a build will do, before anything is done: the request and the contract as one. Looks at the
//! environment and at the context folder only.

use std::path::Path;

use super::build::BuildRequest;
use crate::contract::skaffold::Platforms;
use crate::contract::{Contract, Naming};
use crate::engine::BuildSpec;
use crate::error::{Error, Result};
use crate::image::Platform;
use crate::job::Job;
use crate::reference::Reference;

/// A request resolved against its contract: what will be done, before anything is.
#[derive(Debug)]
pub(super) struct Plan {
    pub image: Reference,
    pub contract: Contract,
    pub naming: Naming,
    pub push: bool,
    pub platforms: Platforms,
    pub spec: BuildSpec,
}

impl Plan {
    /// Tells whether somebody will look for the image under the name that was asked for. A name
    /// without a tag, beside a ref file, is nobody's.
    pub fn name_counts(&self) -> bool {
        self.naming != Naming::Content || self.image.had_tag()
    }

    /// Returns the platform that is asked for; none, if it is the nodes'.
    ///
    /// # Errors
    /// Usage error, if there are several.
    pub fn one_platform(&self) -> Result<Option<&Platform>> {
        match &self.platforms {
            Platforms::Listed(listed) => match listed.as_slice() {
                [platform] => Ok(Some(platform)),
                _ => Err(
                    Error::usage("several platforms can only be built to be pushed")
                        .hint("nodes hold one platform: name one, or push"),
                ),
            },
            Platforms::Nodes | Platforms::All => Ok(None),
        }
    }
}

/// Turns a request and the environment into a plan. Looks at the context folder only.
pub(super) fn plan(job: &Job, request: &BuildRequest) -> Result<Plan> {
    let contract = Contract::read(&job.env)?;
    let tag = request.tag.as_deref().map(Reference::parse).transpose()?;
    let image = match (contract.image(), tag) {
        (Some(image), Some(tag)) if tag != *image => {
            return Err(Error::usage(format!(
                "--tag says {}, but {} asks for {}",
                tag.familiar(),
                contract.tool(),
                image.familiar()
            ))
            .hint("leave --tag out: the name is passed in the environment"));
        }
        (Some(image), _) => image.clone(),
        (None, Some(tag)) => tag,
        (None, None) => {
            return Err(Error::usage("the image has no name").hint(
                "give it one with --tag, or let Skaffold or Tilt run this \
                 (they set IMAGE, PUSH_IMAGE and BUILD_CONTEXT, or EXPECTED_REF)",
            ));
        }
    };
    if image.digest().is_some() {
        return Err(
            Error::usage(format!("{image} has a digest, which a build cannot choose"))
                .hint("name the image with a tag"),
        );
    }
    let naming = match (&contract, &request.ref_file) {
        (Contract::Hand, Some(_)) => Naming::Content,
        (Contract::Hand, None) => Naming::AsAsked,
        (Contract::Skaffold(_), None) => Naming::Skaffold,
        (Contract::Tilt(_), None) => Naming::Tilt,
        (contract, Some(_)) => {
            return Err(Error::usage(format!(
                "--ref-file does not go with the name that {} passed",
                contract.tool()
            ))
            .hint("Tilt passes no EXPECTED_REF with outputs_image_ref_to: use both or neither"));
        }
    };
    if let Some(folder) = request.ref_file.as_deref().and_then(Path::parent)
        && !folder.as_os_str().is_empty()
        && !folder.is_dir()
    {
        return Err(Error::usage(format!(
            "the folder of the ref file, {}, is not there",
            folder.display()
        ))
        .hint("make the folder, or name a file in another"));
    }
    let skaffold = match &contract {
        Contract::Skaffold(build) => Some(build),
        _ => None,
    };
    let push = request.push || skaffold.is_some_and(|build| build.push);
    let platforms = match (&request.platform, skaffold) {
        (Some(platform), _) => Platforms::Listed(vec![platform.clone()]),
        (None, Some(build)) => build.platforms.clone(),
        (None, None) => Platforms::Nodes,
    };
    let context = match (&request.context, skaffold) {
        (Some(context), _) => context.clone(),
        (None, Some(build)) => build.context.to_string_lossy().into_owned(),
        (None, None) => ".".to_owned(),
    };
    let context = check_context(&context, request)?;
    Ok(Plan {
        contract,
        naming,
        push,
        platforms,
        spec: BuildSpec {
            name: image.familiar(),
            also: None,
            context,
            dockerfile: request.dockerfile.clone(),
            target: request.target.clone(),
            build_args: request.build_args.clone(),
            secrets: request.secrets.clone(),
            ssh: request.ssh.clone(),
            platforms: Vec::new(),
            flags: request.flags.clone(),
            builder: request.builder.clone(),
            push: false,
        },
        image,
    })
}

/// Makes the context absolute and looks for its Dockerfile, so that a typing error costs nothing.
fn check_context(context: &str, request: &BuildRequest) -> Result<String> {
    if context.contains("://") || context.starts_with("git@") {
        return Ok(context.to_owned());
    }
    let folder = std::path::absolute(context)
        .map_err(|e| Error::usage(format!("the context {context:?} cannot be used")).because(e))?;
    if !folder.is_dir() {
        return Err(
            Error::usage(format!("the context {} is not a folder", folder.display()))
                .hint("name the folder that holds the Dockerfile"),
        );
    }
    let named_by_flag = request
        .flags
        .iter()
        .any(|flag| flag.starts_with("-f") || flag.starts_with("--file"));
    let found = |file: &Path| {
        if file.is_file() {
            return Ok(());
        }
        Err(
            Error::usage(format!("there is no Dockerfile at {}", file.display()))
                .hint("name it with --file, or the folder that has it as the context"),
        )
    };
    match &request.dockerfile {
        Some(file) => found(file)?,
        None if named_by_flag => {}
        // Podman's own name for it.
        None if folder.join("Containerfile").is_file() => {}
        None => found(&folder.join("Dockerfile"))?,
    }
    Ok(folder.to_string_lossy().into_owned())
}
