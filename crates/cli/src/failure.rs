//! Why a command did not do what it was asked, and what the person can do next.

use std::error::Error;
use std::fmt;

use crate::output::harmless;

/// How the program ended, for scripts (docs/exit-codes.md).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// It was tried and did not work.
    Failed = 1,
    /// What was typed does not go together. Most of that the parser of arguments refuses, with the same code.
    Usage = 2,
    /// A check ran and found something.
    Found = 3,
    /// No login, or one that is not accepted.
    Login = 4,
}

/// An error of a command. It always says what to do next.
#[derive(Debug)]
pub struct Failure {
    what: String,
    next: String,
    exit: Exit,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl Failure {
    /// What went wrong, and what to do about it.
    pub fn new(what: impl Into<String>, next: impl Into<String>) -> Self {
        Failure {
            what: what.into(),
            next: next.into(),
            exit: Exit::Failed,
            source: None,
        }
    }

    /// With the error beneath it.
    pub fn because(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// With another exit code than [`Exit::Failed`].
    pub fn exit(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
    }

    /// The exit code of the program.
    pub fn code(&self) -> u8 {
        self.exit as u8
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Both may quote what somebody else's server says; each is one line.
        write!(f, "{}", harmless(&self.what))?;
        let mut last = self.what.clone();
        let mut source = self.source();
        while let Some(error) = source {
            let text = error.to_string();
            // Libraries often repeat their cause in their own text.
            if !last.contains(&text) {
                write!(f, ": {}", harmless(&text))?;
            }
            last = text;
            source = error.source();
        }
        write!(f, "\n{}", self.next)
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|error| error as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_says_what_to_do() {
        let failure = Failure::new("read the file", "Give another file.").because("no such file");
        assert_eq!(
            failure.to_string(),
            "read the file: no such file\nGive another file."
        );
        assert_eq!(failure.code(), 1);
        assert_eq!(failure.exit(Exit::Login).code(), 4);
    }
}
