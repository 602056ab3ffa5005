//! The nodes, each asked for itself: exec, tunnel, versions, snapshotter, disk, proxies.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use super::{Check, Verdict, is_on_loopback, silent, within, without_password};
use crate::cluster::{Node, State};
use crate::engine::about::About;
use crate::error::{Error, ErrorKind, Result};
use crate::job::Job;
use crate::node::Session;
use crate::report::size;

/// Says what the relay does not; nothing in it comes from outside. Its argument is how long the CRI
/// may take, because crictl's own two seconds are too few on a busy node.
const SCRIPT: &str = "echo containerd $(containerd --version); \
     echo crictl $(crictl --version 2>&1); \
     echo cri $(crictl --timeout $1 version 2>&1); \
     env | grep -iE '^(https?|no)_proxy=.' | sed 's/^/proxy /'; \
     true";
/// An exec that takes longer slows everything down.
const SLOW: Duration = Duration::from_secs(2);
/// Below this a node's disk soon is full.
const LITTLE: u64 = 5_000_000_000;
/// Below this few images fit.
const HARDLY_ANY: u64 = 500_000_000;

/// What one running node said.
struct Look {
    node: Node,
    exec: Result<Duration>,
    session: Result<(Arc<Session>, Duration)>,
    words: Result<Words>,
}

/// What the script said.
#[derive(Debug, Default, PartialEq, Eq)]
struct Words {
    containerd: String,
    crictl: String,
    /// What crictl says of the CRI: its version, or why it does not answer.
    cri: String,
    proxies: BTreeMap<String, String>,
}

/// What all nodes said.
pub struct Looks {
    looks: Vec<Look>,
}

/// Looks at every node that runs.
pub async fn look(job: &Job, nodes: &[Node]) -> Looks {
    let running = nodes.iter().filter(|node| node.state == State::Running);
    let looks = join_all(running.map(|node| look_at(node, job))).await;
    Looks { looks }
}

async fn look_at(node: &Node, job: &Job) -> Look {
    let patience = job.patience;
    let late = || {
        Error::new(
            ErrorKind::Cluster,
            format!("node {}: {}", node.name, silent(patience)),
        )
    };
    // Timed alone: what runs beside it would count.
    let exec = async {
        let began = Instant::now();
        node.run(&["true"], patience).await?;
        Ok(began.elapsed())
    };
    let exec = exec.await;
    let session = async {
        let began = Instant::now();
        let session = Session::open(node, job).await?;
        Ok((Arc::new(session), began.elapsed()))
    };
    let (session, words) = futures_util::join!(within(patience, session), async {
        // What else it says must come in time, even if the CRI does not answer.
        let seconds = (patience.as_secs() * 2 / 3).max(1);
        let script = ["sh", "-c", SCRIPT, "sh", &format!("{seconds}s")];
        let said = node.run(&script, patience).await?;
        Ok(read(&String::from_utf8_lossy(&said)))
    });
    Look {
        node: node.clone(),
        exec,
        session: session.unwrap_or_else(|| Err(late())),
        words,
    }
}

/// Reads what the script said. Pure.
fn read(text: &str) -> Words {
    let mut words = Words::default();
    for line in text.lines() {
        let (key, value) = line.split_once(' ').unwrap_or((line, ""));
        match key {
            // containerd github.com/containerd/containerd/v2 2.1.9 REVISION
            "containerd" => {
                let version = value.split_whitespace().nth(2).unwrap_or_default();
                version
                    .trim_start_matches('v')
                    .clone_into(&mut words.containerd);
            }
            // crictl version v1.36.0
            "crictl" => value
                .strip_prefix("crictl version ")
                .unwrap_or_default()
                .trim_start_matches('v')
                .clone_into(&mut words.crictl),
            "cri" => value.clone_into(&mut words.cri),
            "proxy" => {
                if let Some((name, value)) = value.split_once('=') {
                    words.proxies.insert(name.to_uppercase(), value.to_owned());
                }
            }
            _ => {}
        }
    }
    words
}

/// What one node has to say in one matter.
struct Told {
    verdict: Verdict,
    /// What is told of all nodes that say the same.
    finding: String,
    fix: Option<String>,
    kind: ErrorKind,
}

impl Told {
    fn ok(finding: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Ok,
            finding: finding.into(),
            fix: None,
            kind: ErrorKind::Cluster,
        }
    }

    fn bad(verdict: Verdict, finding: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            verdict,
            fix: Some(fix.into()),
            ..Self::ok(finding)
        }
    }

    fn error(error: &Error) -> Self {
        Self {
            verdict: Verdict::Fail,
            finding: crate::error::one_line(error).to_string(),
            fix: error.next_step().map(str::to_owned),
            kind: error.kind(),
        }
    }
}

/// Makes one check of what all nodes say: the worst verdict, and who says what.
fn merge(name: &str, asked: usize, told: Vec<(&str, Told)>) -> Option<Check> {
    let worst = told.iter().map(|(_, told)| told.verdict).max()?;
    let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
    for (node, told) in &told {
        match groups.iter_mut().find(|(said, _)| *said == told.finding) {
            Some((_, nodes)) => nodes.push(node),
            None => groups.push((&told.finding, vec![node])),
        }
    }
    let finding = match groups.as_slice() {
        [(finding, _)] if told.len() == asked => (*finding).to_owned(),
        several => {
            let each = several
                .iter()
                .map(|(finding, nodes)| format!("{}: {finding}", nodes.join(", ")));
            each.collect::<Vec<_>>().join("; ")
        }
    };
    let mut check = Check::new(name, worst, finding);
    let of_worst = told.iter().find(|(_, told)| told.verdict == worst);
    check.fix = of_worst.and_then(|(_, told)| told.fix.clone());
    if worst == Verdict::Fail {
        check.error = of_worst.map(|(_, told)| told.kind);
    }
    check.nodes = told
        .into_iter()
        .map(|(node, told)| (node.to_owned(), told.finding))
        .collect();
    Some(check)
}

impl Looks {
    /// Returns the platforms of the nodes, each once.
    pub fn platforms(&self) -> Vec<String> {
        let mut platforms = Vec::new();
        for session in self.sessions() {
            let platform = session.facts().platform.to_string();
            if !platforms.contains(&platform) {
                platforms.push(platform);
            }
        }
        platforms
    }

    fn sessions(&self) -> impl Iterator<Item = &Arc<Session>> {
        self.looks
            .iter()
            .filter_map(|look| Some(&look.session.as_ref().ok()?.0))
    }

    fn each(&self, name: &str, tell: impl Fn(&Look) -> Option<Told>) -> Option<Check> {
        let told = self.looks.iter().filter_map(|look| {
            let told = tell(look)?;
            Some((look.node.name.as_str(), told))
        });
        merge(name, self.looks.len(), told.collect())
    }

    fn of_facts(&self, name: &str, tell: impl Fn(&Node, &Session) -> Told) -> Option<Check> {
        self.each(name, |look| {
            let (session, _) = look.session.as_ref().ok()?;
            Some(tell(&look.node, session))
        })
    }

    fn of_words(&self, name: &str, tell: impl Fn(&Node, &Words) -> Told) -> Option<Check> {
        self.each(name, |look| {
            let words = look.words.as_ref().ok()?;
            Some(tell(&look.node, words))
        })
    }

    /// Makes the checks.
    pub fn checks(self, engine: Option<&About>) -> Vec<Check> {
        let checks = [
            self.exec(),
            self.each("tunnel", tunnel),
            self.of_words("containerd", containerd),
            self.of_words("crictl", crictl),
            self.of_facts("snapshotter", snapshotter),
            self.of_facts("unpacked layers", |_, session| {
                discard(session.facts().discard)
            }),
            self.architecture(engine),
            self.of_facts("disk", |node, session| disk(node, session.facts().free)),
            self.of_words("node proxy", |_, words| proxies(&words.proxies)),
        ];
        checks.into_iter().flatten().collect()
    }

    fn exec(&self) -> Option<Check> {
        let times: Vec<Duration> = self
            .looks
            .iter()
            .filter_map(|look| look.exec.as_ref().ok().copied())
            .collect();
        let all_well = times.len() == self.looks.len();
        if let (true, Some(least), Some(most)) = (all_well, times.iter().min(), times.iter().max())
        {
            let finding = match (least.as_millis(), most.as_millis()) {
                (a, b) if self.looks.len() == 1 || a == b => format!("{b} ms"),
                (a, b) => format!("{a} to {b} ms"),
            };
            let mut check = match *most > SLOW {
                true => Check::warn(
                    "exec",
                    format!("{finding}: each run needs one or two"),
                    "is the machine short of memory or processors?",
                ),
                false => Check::ok("exec", finding),
            };
            let each = self.looks.iter().zip(&times);
            check.nodes = each
                .map(|(look, time)| (look.node.name.clone(), format!("{} ms", time.as_millis())))
                .collect();
            return Some(check);
        }
        self.each("exec", |look| {
            Some(match &look.exec {
                Ok(_) => Told::ok("works"),
                Err(e) => Told::error(e),
            })
        })
    }

    fn architecture(&self, engine: Option<&About>) -> Option<Check> {
        let mut check = self.of_facts("platform", |_, session| {
            Told::ok(session.facts().platform.to_string())
        })?;
        let platforms = self.platforms();
        if platforms.len() > 1 {
            check.verdict = Verdict::Warn;
            check.fix = Some(
                "an image is for one platform: say --platform, and --nodes for those that run it"
                    .to_owned(),
            );
        } else if let Some(engine) = engine
            && !self.sessions().all(|s| s.facts().can_run(&engine.platform))
        {
            check.verdict = Verdict::Warn;
            check.finding += &format!("; the engine's own is {}", engine.platform);
            check.fix = Some(
                "kindlift builds for the nodes: RUN steps need emulation in the engine (binfmt)"
                    .to_owned(),
            );
        }
        Some(check)
    }
}

fn tunnel(look: &Look) -> Option<Told> {
    // Without an exec there is no tunnel, which is said already.
    look.exec.as_ref().ok()?;
    Some(match &look.session {
        Ok((session, _)) if session.tunnel().is_some() => {
            Told::ok("containerd answers through it; perl is there")
        }
        Ok(_) => Told::bad(
            Verdict::Warn,
            "no perl that runs: ctr and crictl are used instead, which is slower",
            "use a node image with perl, as kindest/node images are",
        ),
        Err(e) => Told::error(e),
    })
}

fn containerd(_: &Node, words: &Words) -> Told {
    let version = &words.containerd;
    let old = |major: u32, minor: u32| (major, minor) < (1, 6);
    let mut parts = version.split('.').map_while(|part| part.parse().ok());
    match (parts.next(), parts.next()) {
        (Some(major), Some(minor)) if old(major, minor) => Told::bad(
            Verdict::Warn,
            format!("{version}, older than what kindlift is tested with (1.6)"),
            "make the cluster anew with a newer node image",
        ),
        (Some(_), Some(_)) => Told::ok(version),
        _ => Told::bad(
            Verdict::Fail,
            "not found",
            "is it a Kind node? kindlift needs containerd and crictl in it",
        ),
    }
}

fn crictl(node: &Node, words: &Words) -> Told {
    if words.crictl.is_empty() {
        return Told::bad(
            Verdict::Fail,
            "not found",
            "kindlift needs crictl in the node image; kindest/node images have it",
        );
    }
    if !words.cri.contains("RuntimeVersion") {
        let said = words.cri.chars().take(200).collect::<String>();
        let said = if said.is_empty() {
            "no answer".to_owned()
        } else {
            said
        };
        return Told::bad(
            Verdict::Fail,
            format!("{}, but the CRI does not answer it: {said}", words.crictl),
            format!("look with `{}`", node.exec_hint("crictl info")),
        );
    }
    Told::ok(&words.crictl)
}

fn snapshotter(_: &Node, session: &Session) -> Told {
    match session.facts().snapshotter.as_str() {
        "native" => Told::bad(
            Verdict::Warn,
            "native: each layer is a whole copy of those below, which costs time and disk",
            "put Docker's data on a file system that overlayfs works on (not ZFS, not overlay)",
        ),
        name => Told::ok(name),
    }
}

fn discard(discards: bool) -> Told {
    Told::ok(match discards {
        true => {
            "one copy: blobs are discarded once unpacked (discard_unpacked_layers, Kind's default)"
        }
        false => "kept as blobs too: discard_unpacked_layers is off, layers take disk twice",
    })
}

fn disk(node: &Node, free: Option<u64>) -> Told {
    let Some(free) = free else {
        return Told::ok("not known");
    };
    let finding = format!("{} free", size(free));
    let fix = format!(
        "`kindlift prune`, and `{}` for what no container uses; on the host `docker system df`",
        node.exec_hint("crictl rmi --prune")
    );
    if free < HARDLY_ANY {
        Told {
            kind: ErrorKind::Load,
            ..Told::bad(Verdict::Fail, finding, fix)
        }
    } else if free < LITTLE {
        Told::bad(Verdict::Warn, finding, fix)
    } else {
        Told::ok(finding)
    }
}

fn proxies(proxies: &BTreeMap<String, String>) -> Told {
    if proxies.is_empty() {
        return Told::ok("none");
    }
    let shown: Vec<String> = proxies
        .iter()
        .map(|(name, value)| format!("{name}={}", without_password(value)))
        .collect();
    let shown = shown.join(" ");
    let local = proxies
        .iter()
        .any(|(name, value)| name != "NO_PROXY" && is_on_loopback(value));
    if local {
        return Told::bad(
            Verdict::Warn,
            format!("{shown}: loopback is the node itself, so its pulls fail (`proxyconnect tcp`)"),
            "make the cluster anew with a proxy that containers reach, or with none; images that \
             are loaded need no pull",
        );
    }
    Told::ok(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_nodes_say() {
        let words = read(
            "containerd containerd github.com/containerd/containerd/v2 v2.1.9 abc\n\
             crictl crictl version v1.36.0\n\
             cri Version: 0.1.0 RuntimeName: containerd RuntimeVersion: v2.1.9\n\
             proxy http_proxy=http://a?x=1\nproxy NO_PROXY=b\n",
        );
        assert_eq!(words.containerd, "2.1.9");
        assert_eq!(words.crictl, "1.36.0");
        assert_eq!(words.proxies["HTTP_PROXY"], "http://a?x=1");
        assert_eq!(words.proxies["NO_PROXY"], "b");
        let missing = read("containerd \ncrictl sh: 1: crictl: not found\ncri \n");
        assert_eq!(missing, Words::default());
    }

    #[test]
    fn nodes_that_agree_are_told_once() {
        let same = merge("x", 2, vec![("a", Told::ok("1")), ("b", Told::ok("1"))]).unwrap();
        assert_eq!(same.finding, "1");
        assert_eq!(same.nodes["b"], "1");
        let silent = merge("x", 2, vec![("a", Told::ok("1"))]).unwrap();
        assert_eq!(silent.finding, "a: 1");
        let other = Told::bad(Verdict::Fail, "2", "mend b");
        let differ = merge(
            "x",
            3,
            vec![("a", Told::ok("1")), ("b", other), ("c", Told::ok("1"))],
        );
        let differ = differ.unwrap();
        assert_eq!(differ.finding, "a, c: 1; b: 2");
        assert_eq!(differ.verdict, Verdict::Fail);
        assert_eq!(differ.error, Some(ErrorKind::Cluster));
        assert_eq!(differ.fix.as_deref(), Some("mend b"));
        assert!(merge("x", 2, Vec::new()).is_none());
    }

    #[test]
    fn a_proxy_that_the_node_cannot_reach() {
        let with = |value: &str| {
            proxies(&BTreeMap::from([(
                "HTTPS_PROXY".to_owned(),
                value.to_owned(),
            )]))
        };
        assert_eq!(with("http://127.0.0.1:3128").verdict, Verdict::Warn);
        let far = with("http://u:p@proxy:3128");
        assert_eq!(far.verdict, Verdict::Ok);
        assert!(!far.finding.contains(":p@"), "{}", far.finding);
    }
}
