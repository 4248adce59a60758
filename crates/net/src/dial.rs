//! Connections that are not made by TCP from here.

use std::{fmt, future::Future, pin::Pin};

use tokio::io::{AsyncRead, AsyncWrite};

use crate::{BoxError, Kind};

/// Bytes both ways.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// Why a [`Dial`] has no connection to give.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct DialError {
    /// What kind of fault it is.
    pub kind: Kind,
    /// In words.
    pub reason: String,
    /// What lies beneath.
    #[source]
    pub source: Option<BoxError>,
}

impl DialError {
    /// A fault without a cause of its own.
    #[must_use]
    pub fn new(kind: Kind, reason: impl Into<String>) -> Self {
        Self {
            kind,
            reason: reason.into(),
            source: None,
        }
    }
}

/// What [`Dial::dial`] gives in the end.
pub type Dialling<'a> =
    Pin<Box<dyn Future<Output = Result<Box<dyn Duplex>, DialError>> + Send + 'a>>;

/// Gives connections to one place, by whatever way there is at the moment.
pub trait Dial: fmt::Debug + Send + Sync {
    /// One new connection. Whoever asks limits the time.
    fn dial(&self) -> Dialling<'_>;
}
