//! News of nodes: containers of Kind that start, wherever clusters may be.
//!
//! `docker events` and `podman events` tell; the commands reach whatever endpoint their engine has.
//! They are asked from a moment on, so that nothing is missed while they start, or start again.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::{CLUSTER_LABEL, Provider, ProviderKind, choose};
use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};
use crate::process;

/// How long a command that has ended is left alone, at first and at most.
const REST: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// A command that lasts longer than this was listening.
const GRACE: Duration = Duration::from_secs(3);

/// Something that is worth a look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// A container of Kind has started.
    Started,
    /// One place will tell nothing, for now or for good, and why.
    Silent(String),
}

/// A stream of news that goes on until it is dropped.
pub struct Events {
    news: mpsc::Receiver<News>,
    _listening: Vec<AbortOnDropHandle<()>>,
}

impl Events {
    /// Begins to listen at every place where clusters may be.
    ///
    /// # Errors
    /// Usage error, if the environment names no provider.
    pub fn listen(env: &Env) -> Result<Self> {
        // One look sees all that has started: where there is no room, one is due.
        let (sender, news) = mpsc::channel(16);
        let places = choose::places(env)?.into_iter();
        let listening = places
            .filter(|place| matches!(place.kind, ProviderKind::Docker | ProviderKind::Podman))
            .map(|place| AbortOnDropHandle::new(tokio::spawn(follow(place, sender.clone()))))
            .collect();
        Ok(Self {
            news,
            _listening: listening,
        })
    }

    /// Waits for news. For ever, if there is no place that tells any.
    pub async fn next(&mut self) -> News {
        match self.news.recv().await {
            Some(news) => news,
            None => std::future::pending().await,
        }
    }

    /// Throws away what has come until now.
    pub fn clear(&mut self) {
        while self.news.try_recv().is_ok() {}
    }
}

/// Listens at one place, and again when the engine there has been started anew.
async fn follow(place: Arc<Provider>, news: mpsc::Sender<News>) {
    let mut since = now();
    let mut rest = REST.0;
    let mut told = false;
    loop {
        let began = now();
        let ended = listen(&place, since, &news).await;
        let worked = now() - began > GRACE.as_secs();
        let gone = ended.to_string().starts_with("cannot start");
        if worked || !told {
            told = true;
            let why = format!("{}: {}", place.endpoint(), crate::error::one_line(&ended));
            if news.send(News::Silent(why)).await.is_err() {
                return;
            }
        }
        if gone {
            // A program that is not installed runs no nodes.
            return;
        }
        if worked {
            (since, rest) = (now(), REST.0);
        }
        tokio::time::sleep(rest).await;
        rest = (rest * 2).min(REST.1);
        // An engine that was started anew may have started nodes, and remembers no events.
        if worked && news.send(News::Started).await.is_err() {
            return;
        }
    }
}

/// Listens until the command ends; returns why it did.
async fn listen(place: &Provider, since: u64, news: &mpsc::Sender<News>) -> Error {
    let mut command = place.command();
    command.args(["events", "--filter", "type=container"]);
    command.args(["--filter", "event=start"]);
    command.args(["--filter", &format!("label={CLUSTER_LABEL}")]);
    command.args(["--since", &since.to_string(), "--format", "{{.ID}}"]);
    let shown = process::display(&command);
    let mut child = match process::spawn(&mut command) {
        Ok(child) => child,
        Err(e) => return e,
    };
    let stdout = child.stdout.take().expect("stdout is piped");
    let stderr = child.stderr.take().expect("stderr is piped");
    let telling = async {
        let mut lines = BufReader::new(stdout).lines();
        while let Ok(Some(_)) = lines.next_line().await {
            // A look that is due already will see this too.
            let _ = news.try_send(News::Started);
        }
    };
    let (said, ()) = tokio::join!(process::tail(stderr), telling);
    match child.wait().await {
        Ok(status) => process::failure(ErrorKind::Cluster, &shown, status, &said),
        Err(e) => Error::new(ErrorKind::Cluster, format!("lost track of `{shown}`")).because(e),
    }
}

/// Returns the time in seconds as engines count it.
fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
