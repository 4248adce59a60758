//! What a reconciler could not do.

/// A request to the API that failed; it is always tried again.
#[derive(Debug, thiserror::Error)]
#[error("{doing}")]
pub struct Error {
    doing: &'static str,
    #[source]
    source: kube::Error,
}

impl Error {
    /// For `map_err`: what was being tried, in the imperative.
    pub fn doing(doing: &'static str) -> impl Fn(kube::Error) -> Error {
        move |source| Error { doing, source }
    }

    /// Someone else wrote first: nothing is wrong, the next try sees it.
    pub fn is_conflict(&self) -> bool {
        matches!(code(&self.source), Some(409))
    }

    /// What was tried, and why it failed, in one line.
    pub fn chain(&self) -> String {
        format!("{}: {}", self.doing, self.source)
    }

    /// What the API answered.
    pub fn cause(&self) -> &kube::Error {
        &self.source
    }
}

/// The HTTP code of an answer that was an error.
pub fn code(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}

/// Turns "not found" into `None`: the object went away while we looked at it, which needs no work.
pub fn unless_gone<T>(
    result: Result<T, kube::Error>,
    doing: &'static str,
) -> Result<Option<T>, Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if code(&error) == Some(404) => Ok(None),
        Err(source) => Err(Error { doing, source }),
    }
}
