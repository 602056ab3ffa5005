//! `lint`: which images of manifests will the kubelet pull although only the nodes have them?
//!
//! Decides by the names alone: no engine and no cluster is asked, so that it runs in CI.

use serde::Serialize;

use super::manifests::{self, Use};
use crate::error::{Error, ErrorKind, Result};
use crate::job::Job;
use crate::reference::Reference;

/// What to look at.
#[derive(Debug, Clone, Default)]
pub struct LintRequest {
    /// Files, folders, or `-` for stdin.
    pub paths: Vec<String>,
    /// Whether sub-folders are looked into.
    pub recursive: bool,
    /// The images that only the nodes have; if empty, those that look like it.
    pub images: Vec<String>,
}

/// What was found.
#[derive(Debug, Clone, Serialize)]
pub struct Lint {
    /// How many places that name an image were looked at.
    pub checked: usize,
    /// What a cluster will not run.
    pub findings: Vec<Finding>,
    /// Images of registries that are pulled at every start, which is fine.
    pub notes: Vec<Finding>,
}

/// One place in a manifest.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// The file, or `-` for stdin.
    pub file: String,
    /// Which document of the file, from 1.
    pub document: usize,
    /// The object's kind.
    pub kind: String,
    /// The object's name.
    pub name: String,
    /// The object's namespace, if it says.
    pub namespace: Option<String>,
    /// The way to the container in the document.
    pub path: String,
    /// The container's name.
    pub container: String,
    /// The image as it is written.
    pub image: String,
    /// The policy that holds.
    pub policy: String,
    /// What is wrong.
    pub problem: Problem,
    /// Why, for people.
    pub message: String,
    /// What to do.
    pub fix: String,
}

/// What is wrong with a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Problem {
    /// The kubelet pulls the image at every start.
    Pulled,
    /// The API server does not know the policy.
    UnknownPolicy,
    /// The kubelet cannot read the name.
    InvalidName,
}

/// When the kubelet pulls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Policy {
    /// At every start.
    Always,
    /// Where the node lacks the image.
    IfNotPresent,
    /// Never.
    Never,
}

impl Policy {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "Always" => Some(Self::Always),
            "IfNotPresent" => Some(Self::IfNotPresent),
            "Never" => Some(Self::Never),
            _ => None,
        }
    }

    /// The one that the API server fills in.
    ///
    /// Source: Kubernetes `pkg/apis/core/v1/defaults.go` (`SetDefaults_Container`) and
    /// `pkg/util/parsers` (`ParseImageName`): a digest makes the tag optional, not meaningless.
    fn of(image: &str) -> Self {
        match tag(image) {
            Some("latest") => Self::Always,
            None if !image.contains('@') => Self::Always,
            _ => Self::IfNotPresent,
        }
    }
}

/// Returns the tag that is written.
fn tag(image: &str) -> Option<&str> {
    let name = image.split('@').next().unwrap_or_default();
    // A colon before the last slash belongs to a port.
    let last = name.rsplit('/').next().unwrap_or_default();
    last.split_once(':').map(|(_, tag)| tag)
}

/// Reads manifests and tells what a cluster will not run.
///
/// # Errors
/// Usage error, if a file cannot be read or stdin has nothing.
pub async fn lint(job: &Job, request: &LintRequest) -> Result<Lint> {
    let ours = request
        .images
        .iter()
        .map(|name| {
            let name = Reference::parse(name)?;
            Ok((name.repository(), name.had_tag().then_some(name)))
        })
        .collect::<Result<Vec<_>>>()?;
    let asked = request.clone();
    // stdin may be slow: a read that blocks must not keep signals from us.
    let reading =
        tokio::task::spawn_blocking(move || manifests::read(&asked.paths, asked.recursive));
    let reading = async {
        reading
            .await
            .map_err(|e| Error::new(ErrorKind::Internal, "reading was cut off").because(e))?
    };
    let manifests = job.cancel.unless(reading).await?;
    if manifests.documents == 0 {
        // A command before the pipe that failed must not pass for manifests without faults.
        let paths = request.paths.iter().map(|path| match path.as_str() {
            "-" => "stdin",
            path => path,
        });
        let paths = paths.collect::<Vec<_>>().join(", ");
        return Err(Error::usage(format!("there is no manifest in {paths}"))
            .hint("look at what the command before the pipe said"));
    }
    let mut lint = Lint {
        checked: manifests.uses.len(),
        findings: Vec::new(),
        notes: Vec::new(),
    };
    for at in manifests.uses {
        let is_ours = |name: &Reference| {
            if ours.is_empty() {
                return looks_local(name);
            }
            ours.iter().any(|(repository, exactly)| {
                *repository == name.repository()
                    && exactly.as_ref().is_none_or(|exactly| exactly == name)
            })
        };
        match judge(&at, is_ours) {
            Some((finding, true)) => lint.findings.push(finding),
            Some((finding, false)) => lint.notes.push(finding),
            None => {}
        }
    }
    Ok(lint)
}

/// Judges one place: what is to be said of it, and whether it is a fault.
fn judge(at: &Use, is_ours: impl Fn(&Reference) -> bool) -> Option<(Finding, bool)> {
    let default = Policy::of(&at.image);
    let policy = at.policy.as_deref().map_or(Some(default), Policy::parse);
    let finding = |problem, message, fix: String| Finding {
        file: at.file.clone(),
        document: at.document,
        kind: at.kind.clone(),
        name: at.name.clone(),
        namespace: at.namespace.clone(),
        path: at.path.clone(),
        container: at.container.clone(),
        image: at.image.clone(),
        policy: match (policy, &at.policy) {
            (Some(policy), _) => format!("{policy:?}"),
            (None, Some(written)) => written.clone(),
            (None, None) => String::new(),
        },
        problem,
        message,
        fix,
    };
    let name = match Reference::parse(&at.image) {
        Ok(name) => name,
        Err(e) => {
            let fix = "write it as [registry/]repository[:tag]; a template must be rendered first";
            let message = e.to_string();
            return Some((finding(Problem::InvalidName, message, fix.into()), true));
        }
    };
    match policy {
        None => {
            let fix = "write Always, IfNotPresent or Never, with these capitals";
            let message = "Kubernetes does not know this pull policy".to_owned();
            Some((finding(Problem::UnknownPolicy, message, fix.into()), true))
        }
        Some(Policy::Always) => {
            let why = match (&at.policy, tag(&at.image)) {
                (Some(_), _) => "imagePullPolicy is Always",
                (None, Some(_)) => "the tag is latest, which means Always",
                (None, None) => "there is no tag, which means Always",
            };
            let fix = match (&at.policy, default) {
                (Some(_), Policy::Always) => "set imagePullPolicy: IfNotPresent",
                (Some(_), _) => "leave imagePullPolicy out, or set it to IfNotPresent",
                (None, _) => "use another tag, or set imagePullPolicy: IfNotPresent",
            };
            let message = format!(
                "{why}: the kubelet asks {} for it at every start, whatever the node has",
                name.registry()
            );
            let finding = finding(Problem::Pulled, message, fix.into());
            Some((finding, is_ours(&name)))
        }
        Some(Policy::IfNotPresent | Policy::Never) => None,
    }
}

/// Tells whether an image was most likely built here: nobody wrote which registry has it, or a
/// development loop has made its tag.
fn looks_local(name: &Reference) -> bool {
    let of_a_loop = name.tag().is_some_and(|tag| {
        let hex = |text: &str| text.chars().all(|c| c.is_ascii_hexdigit());
        let made = ["tilt-", "kindlift-"].iter().any(|tool| {
            tag.strip_prefix(tool)
                .is_some_and(|id| id.len() == 16 && hex(id))
        });
        // Skaffold's.
        made || tag.len() == 64 && hex(tag)
    });
    !name.had_registry() || name.registry() == "localhost" || of_a_loop
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_policy_is_the_api_servers() {
        let hex = "a".repeat(64);
        for (image, policy) in [
            ("app", Policy::Always),
            ("app:latest", Policy::Always),
            ("reg:5000/app", Policy::Always),
            ("reg:5000/app:latest", Policy::Always),
            ("app:dev", Policy::IfNotPresent),
            ("app:Latest", Policy::IfNotPresent),
            (&format!("app@sha256:{hex}"), Policy::IfNotPresent),
            (&format!("app:1@sha256:{hex}"), Policy::IfNotPresent),
            (&format!("app:latest@sha256:{hex}"), Policy::Always),
        ] {
            assert_eq!(Policy::of(image), policy, "{image}");
        }
    }

    #[test]
    fn images_that_look_local() {
        let hex = "a".repeat(64);
        for (image, local) in [
            ("app", true),
            ("demo/app:latest", true),
            ("localhost/app", true),
            ("docker.io/demo/app", false),
            ("docker.io/library/nginx", false),
            ("localhost:5001/app", false),
            ("ghcr.io/x/y:latest", false),
            (&format!("ghcr.io/x/y:{hex}"), true),
            ("ghcr.io/x/y:tilt-0123456789abcdef", true),
            ("ghcr.io/x/y:tilt-build", false),
        ] {
            let name = Reference::parse(image).unwrap();
            assert_eq!(looks_local(&name), local, "{image}");
        }
    }
}
