//! The cause: why a container does not get its image, from the kubelet's reason and what the nodes
//! hold.

use super::Check;
use super::pod::Container;
use crate::error::ErrorKind;
use crate::reference::Reference;

/// What one node holds of an image that a pod names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holding {
    /// Nothing under that name; these are alike: other tags, Podman's name for it.
    Absent(Vec<String>),
    /// An image that cannot run, and why.
    Broken(String),
    /// An image for another platform than the node's.
    Foreign(String),
    /// An image that it can run.
    Whole,
    /// It could not be asked.
    Unknown(String),
}

/// Everything that is known when one container is judged.
pub struct Case<'a> {
    /// Where the pod is.
    pub node: &'a str,
    pub container: &'a Container,
    /// The kubelet's reason, e.g. `ImagePullBackOff`.
    pub reason: &'a str,
    /// Its words.
    pub message: String,
    pub holdings: Vec<(String, Holding)>,
    /// Whether the engine has the image; none, if no engine could be asked.
    pub in_engine: Option<bool>,
}

impl Case<'_> {
    fn here(&self) -> Option<&Holding> {
        let mut holdings = self.holdings.iter();
        holdings
            .find(|(node, _)| node == self.node)
            .map(|(_, holding)| holding)
    }

    /// What brings the image onto the nodes.
    fn load(&self) -> String {
        let name = &self.container.image;
        match self.in_engine {
            Some(false) => format!("the engine has no such image: `kindlift build -t {name} .`"),
            _ => format!("`kindlift load {name}`"),
        }
    }

    /// Judges. None, if the container is only being made.
    pub fn judge(&self, pod: &str) -> Option<Check> {
        if self.is_made() && !matches!(self.here(), Some(Holding::Absent(_))) {
            return None;
        }
        let (why, fix) = self.explain();
        let said = match self.message.as_str() {
            "" => String::new(),
            said => format!("; the kubelet says: {said}"),
        };
        let mut check = Check::fail(
            pod,
            ErrorKind::Verify,
            format!(
                "container {} on {}: {}: {why}{said}",
                self.container.name, self.node, self.reason
            ),
            fix,
        );
        check.nodes = self
            .holdings
            .iter()
            .map(|(node, holding)| (node.clone(), holding.to_string()))
            .collect();
        let innocent = self.fails_by_itself() && self.here() == Some(&Holding::Whole);
        Some(if innocent || self.is_made() || !self.is_about_images() {
            check.tolerable()
        } else {
            check
        })
    }

    fn is_made(&self) -> bool {
        self.reason == "ContainerCreating"
    }

    fn fails_by_itself(&self) -> bool {
        matches!(self.reason, "CrashLoopBackOff" | "RunContainerError")
    }

    fn is_about_images(&self) -> bool {
        matches!(
            self.reason,
            "ImagePullBackOff"
                | "ErrImagePull"
                | "ErrImageNeverPull"
                | "InvalidImageName"
                | "ImageInspectError"
                | "CreateContainerError"
        ) || self.is_made()
            || self.fails_by_itself()
    }

    /// Says why, and what to do.
    fn explain(&self) -> (String, String) {
        let Container {
            image,
            image_pull_policy: policy,
            ..
        } = self.container;
        let Ok(reference) = Reference::parse(image) else {
            return (
                format!("{image:?} is not an image name"),
                "mend the name in the manifest".to_owned(),
            );
        };
        if !self.is_about_images() {
            return (
                "that is not about the image".to_owned(),
                "look with `kubectl describe pod`".to_owned(),
            );
        }
        match self.here() {
            Some(Holding::Foreign(platform)) => (
                format!("the node's {image} is for {platform}, which it does not run"),
                "build it for the node: `kindlift build` does, without --platform".to_owned(),
            ),
            Some(Holding::Broken(why)) => (
                format!("the node's {image} is not complete: {why}"),
                self.load(),
            ),
            Some(Holding::Whole) => self.although_there(image, policy, &reference),
            Some(Holding::Absent(alike)) => self.absent(image, policy, &reference, alike),
            Some(Holding::Unknown(why)) => (
                format!("the node cannot be asked what it holds: {why}"),
                "look with `kindlift doctor`".to_owned(),
            ),
            None => (
                format!("{} is no node of this Kind cluster", self.node),
                "name the cluster with --cluster or --kube-context".to_owned(),
            ),
        }
    }

    /// The node has the image, whole.
    fn although_there(&self, image: &str, policy: &str, name: &Reference) -> (String, String) {
        if self.fails_by_itself() {
            return (
                format!("the node has {image}, complete; what runs in it fails"),
                "look with `kubectl logs --previous`".to_owned(),
            );
        }
        if policy == "Always" {
            let latest = if name.is_latest() {
                ", as the tag latest has it"
            } else {
                ""
            };
            return (
                format!(
                    "the node has {image}, but imagePullPolicy is Always{latest}: the kubelet asks the registry"
                ),
                "set imagePullPolicy: IfNotPresent, or use a tag that is not latest".to_owned(),
            );
        }
        (
            format!("the node has {image} by now; the kubelet waits before it tries again"),
            "wait up to 5 minutes, or delete the pod if something makes it anew".to_owned(),
        )
    }

    fn absent(
        &self,
        image: &str,
        policy: &str,
        name: &Reference,
        alike: &[String],
    ) -> (String, String) {
        let others: Vec<&str> = self
            .holdings
            .iter()
            .filter(|(_, holding)| *holding == Holding::Whole)
            .map(|(node, _)| node.as_str())
            .collect();
        let mut why = match policy {
            _ if self.is_made() => format!("the node lacks {image}: the kubelet pulls it"),
            "Never" => format!("the node lacks {image}, and imagePullPolicy is Never"),
            "Always" => {
                format!("the node lacks {image}, imagePullPolicy is Always, and the pull fails")
            }
            _ => format!("the node lacks {image}, and the pull fails"),
        };
        if name.digest().is_some() {
            return (
                why + "; the name has a digest, which no loaded image is found by",
                "name it by a tag, or push it to a registry that the nodes reach".to_owned(),
            );
        }
        if !others.is_empty() {
            why += &format!("; {} has it", others.join(", "));
        }
        let local = |name: &&String| name.starts_with("localhost/");
        let fix = self.load();
        if let Some(local) = alike
            .iter()
            .find(local)
            .filter(|_| name.registry() != "localhost")
        {
            why += &format!("; it has {local}, which is Podman's name for it");
        } else if !alike.is_empty() && others.is_empty() {
            let shown: Vec<&str> = alike.iter().take(3).map(String::as_str).collect();
            why += &format!("; it has {}", shown.join(", "));
        }
        if policy == "Always" {
            return (
                why,
                format!(
                    "{fix}, and set imagePullPolicy: IfNotPresent (or use a tag that is not latest)"
                ),
            );
        }
        (why, fix)
    }
}

impl std::fmt::Display for Holding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Absent(alike) if alike.is_empty() => f.write_str("absent"),
            Self::Absent(alike) => write!(f, "absent; alike: {}", alike.join(", ")),
            Self::Broken(why) => write!(f, "not complete: {why}"),
            Self::Foreign(platform) => write!(f, "for {platform}"),
            Self::Whole => f.write_str("complete"),
            Self::Unknown(why) => write!(f, "not known: {why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(reason: &str, policy: &str, here: Holding, check: impl Fn(&Check)) {
        let container = Container {
            name: "app".into(),
            image: "demo/app:dev".into(),
            image_pull_policy: policy.into(),
        };
        let case = Case {
            node: "a",
            container: &container,
            reason,
            message: "pull access denied".into(),
            holdings: vec![("a".into(), here), ("b".into(), Holding::Whole)],
            in_engine: Some(true),
        };
        check(&case.judge("pod x").unwrap());
    }

    #[test]
    fn each_cause_has_its_words() {
        for (reason, policy, here, finding, fix) in [
            (
                "ImagePullBackOff",
                "IfNotPresent",
                Holding::Absent(vec![]),
                "lacks demo/app:dev, and the pull fails; b has it",
                "kindlift load demo/app:dev",
            ),
            (
                "ErrImageNeverPull",
                "Never",
                Holding::Absent(vec![]),
                "imagePullPolicy is Never; b has it",
                "kindlift load",
            ),
            (
                "ErrImagePull",
                "Always",
                Holding::Whole,
                "but imagePullPolicy is Always:",
                "IfNotPresent",
            ),
            (
                "ErrImagePull",
                "Always",
                Holding::Absent(vec![]),
                "imagePullPolicy is Always, and the pull fails",
                "load demo/app:dev`, and set",
            ),
            (
                "ImagePullBackOff",
                "IfNotPresent",
                Holding::Whole,
                "by now",
                "delete the pod",
            ),
            (
                "CreateContainerError",
                "IfNotPresent",
                Holding::Broken("no layers".into()),
                "not complete: no layers",
                "kindlift load",
            ),
            (
                "CrashLoopBackOff",
                "IfNotPresent",
                Holding::Foreign("linux/arm64".into()),
                "linux/arm64, which it does not run",
                "kindlift build",
            ),
            (
                "CrashLoopBackOff",
                "IfNotPresent",
                Holding::Whole,
                "what runs in it fails",
                "kubectl logs",
            ),
            (
                "ImagePullBackOff",
                "IfNotPresent",
                Holding::Absent(vec!["localhost/demo/app:dev".into()]),
                "Podman's name for it",
                "kindlift load",
            ),
        ] {
            case(reason, policy, here, |check| {
                assert!(check.finding.contains(finding), "{check:?}");
                assert!(
                    check
                        .finding
                        .contains("the kubelet says: pull access denied")
                );
                assert!(check.fix.as_deref().unwrap().contains(fix), "{check:?}");
                assert_eq!(check.nodes["b"], "complete");
                let failed = !fix.contains("kubectl logs");
                assert_eq!(
                    check.error,
                    failed.then_some(ErrorKind::Verify),
                    "{check:?}"
                );
            });
        }
    }

    #[test]
    fn an_image_that_nobody_has_must_be_built() {
        let container = Container {
            name: "app".into(),
            image: "demo/app:v2".into(),
            image_pull_policy: "IfNotPresent".into(),
        };
        let case = Case {
            node: "a",
            container: &container,
            reason: "ErrImagePull",
            message: String::new(),
            holdings: vec![(
                "a".into(),
                Holding::Absent(vec!["docker.io/demo/app:v1".into()]),
            )],
            in_engine: Some(false),
        };
        let check = case.judge("pod x").unwrap();
        assert!(
            check
                .finding
                .ends_with("the pull fails; it has docker.io/demo/app:v1"),
            "{check:?}"
        );
        assert!(
            check
                .fix
                .unwrap()
                .contains("`kindlift build -t demo/app:v2 .`")
        );
    }
}
