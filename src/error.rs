//! The one error type of the library: a kind (which becomes the exit code), a message that names
//! the image, node or command, a hint with the next step, and the cause below it.

use std::fmt;

/// What failed, coarse enough to act on. Each kind has one documented exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorKind {
    /// A bug in kindlift or something the other kinds do not cover.
    Internal,
    /// The command line, the environment or the project's file does not make sense.
    Usage,
    /// The engine's build, or its push, failed.
    Build,
    /// No container engine answers.
    Engine,
    /// No cluster, or a node of it cannot take part.
    Cluster,
    /// The image is broken, foreign or not there.
    Image,
    /// A node did not take the image; every node has its old image.
    Load,
    /// The image was loaded but crictl does not show it.
    Verify,
    /// Somebody else has given the name to another image; theirs stays.
    Superseded,
    /// `lint` found something to fix.
    Findings,
    /// SIGINT.
    Interrupted,
    /// SIGTERM.
    Terminated,
}

impl ErrorKind {
    /// Returns the process exit code of this kind.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Internal => 1,
            Self::Usage => 2,
            Self::Build => 3,
            Self::Engine => 4,
            Self::Cluster => 5,
            Self::Image => 6,
            Self::Load => 7,
            Self::Verify => 8,
            Self::Superseded => 9,
            Self::Findings => 10,
            Self::Interrupted => 130,
            Self::Terminated => 143,
        }
    }
}

/// An error of the library.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    kind: ErrorKind,
    message: String,
    hint: Option<String>,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// The library's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Makes an error of a kind. The message is a lower-case fragment.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            hint: None,
            source: None,
        }
    }

    /// Shorthand for a usage error.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Usage, message)
    }

    /// Adds the next step for the user.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Wraps this error in a message that names more, keeping kind and hint.
    #[must_use]
    pub fn within(self, message: impl Into<String>) -> Self {
        Self {
            kind: self.kind,
            message: message.into(),
            hint: self.hint.clone(),
            source: Some(Box::new(self.without_hint())),
        }
    }

    /// Changes the kind.
    #[must_use]
    pub fn with_kind(mut self, kind: ErrorKind) -> Self {
        self.kind = kind;
        self
    }

    fn without_hint(mut self) -> Self {
        self.hint = None;
        self
    }

    /// Returns the kind.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Returns the next step, if there is one to tell.
    pub fn next_step(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// Returns the messages of the causes below this error, nearest first.
    pub fn causes(&self) -> Vec<String> {
        let mut causes = Vec::new();
        let mut next = std::error::Error::source(self);
        while let Some(cause) = next {
            let text = cause.to_string();
            // Transport errors repeat their cause in their own text.
            if causes.last() != Some(&text) {
                causes.push(text);
            }
            next = cause.source();
        }
        causes
    }
}

/// Joins the messages of an error and its causes with `: `, for places that have one line.
pub fn one_line(error: &(dyn std::error::Error + 'static)) -> impl fmt::Display {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
