//! What goes wrong between a request and its answer.

use std::{error::Error, io, sync::Arc};

use crate::BoxError;

/// What kind of fault stopped a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// The settings of the upstream cannot be used: no URL, an unreadable certificate.
    Settings,
    /// The host name has no address.
    NameNotResolved,
    /// Nothing accepts connections at the address: refused, no route.
    Unreachable,
    /// The peer's certificate is not signed by an authority we trust.
    TlsUntrusted,
    /// The peer's certificate is expired, or not valid yet.
    TlsExpired,
    /// The peer's certificate is for another name.
    TlsName,
    /// Any other fault of the TLS handshake, a peer that speaks no TLS among them.
    Tls,
    /// The peer does not accept the client certificate that we presented.
    CertificateRefused,
    /// The address is one that [`Allow`](crate::Allow) refuses. Nothing was sent.
    NotAllowed,
    /// No connection within the time limit.
    ConnectTimeout,
    /// Connected, but no answer within the time limit.
    Timeout,
    /// The peer closed or reset the connection before its answer was complete.
    Reset,
    /// The peer answered with something that is not HTTP, or beyond our limits.
    Malformed,
    /// An upgrade was answered with neither 101 nor an error.
    InvalidUpgrade,
    /// The caller's own request broke off or cannot be sent.
    Request,
    /// The upstream was closed by us while the request was under way.
    Closed,
}

impl Kind {
    /// Whether the same request may succeed if it is sent again later.
    #[must_use]
    pub fn is_transient(self) -> bool {
        matches!(
            self,
            Self::NameNotResolved
                | Self::Unreachable
                | Self::ConnectTimeout
                | Self::Timeout
                | Self::Reset
                | Self::Closed
        )
    }

    /// Whether the fault lies with the caller rather than with the upstream or us.
    #[must_use]
    pub fn is_callers_fault(self) -> bool {
        self == Self::Request
    }

    fn words(self) -> &'static str {
        match self {
            Self::Settings => "its settings cannot be used",
            Self::NameNotResolved => "its name has no address",
            Self::Unreachable => "nothing answers at its address",
            Self::TlsUntrusted => "its certificate is signed by an unknown authority",
            Self::TlsExpired => "its certificate is expired or not valid yet",
            Self::TlsName => "its certificate is for another name",
            Self::Tls => "the TLS handshake failed",
            Self::CertificateRefused => "it refused our client certificate",
            Self::NotAllowed => "its address may not be asked",
            Self::ConnectTimeout => "it did not accept a connection in time",
            Self::Timeout => "it did not answer in time",
            Self::Reset => "it closed the connection before its answer was complete",
            Self::Malformed => "its answer is not valid HTTP or is too large",
            Self::InvalidUpgrade => "it answered the upgrade with an unexpected status",
            Self::Request => "the request broke off or cannot be sent",
            Self::Closed => "the connection was closed on our side",
        }
    }
}

/// A request that got no answer, or none that can be relayed.
///
/// The text names the upstream's address and the fault; the cause is the [source](Error::source). No header or body is ever part of it.
#[derive(Debug, thiserror::Error)]
#[error("send to {upstream}: {}", .kind.words())]
pub struct ProxyError {
    kind: Kind,
    upstream: Arc<str>,
    /// The status of an answer that could not be used.
    status: Option<http::StatusCode>,
    #[source]
    source: Option<BoxError>,
}

impl ProxyError {
    pub(crate) fn new(kind: Kind, upstream: &Arc<str>, source: Option<BoxError>) -> Self {
        Self {
            kind,
            upstream: upstream.clone(),
            status: None,
            source,
        }
    }

    pub(crate) fn because(kind: Kind, upstream: &Arc<str>, source: impl Into<BoxError>) -> Self {
        Self::new(kind, upstream, Some(source.into()))
    }

    pub(crate) fn invalid_upgrade(upstream: &Arc<str>, status: http::StatusCode) -> Self {
        Self {
            status: Some(status),
            ..Self::new(Kind::InvalidUpgrade, upstream, None)
        }
    }

    /// Finds the kind in the chain of causes; `otherwise` where nothing says more.
    pub(crate) fn classify(upstream: &Arc<str>, source: BoxError, otherwise: Kind) -> Self {
        let kind = kind_of(source.as_ref()).unwrap_or(otherwise);
        Self::new(kind, upstream, Some(source))
    }

    /// A fault of a connection to this address that somebody else reads from and writes to.
    #[must_use]
    pub fn of_connection(address: &crate::Address, source: io::Error) -> Self {
        Self::classify(&address.to_string().into(), source.into(), Kind::Reset)
    }

    /// What kind of fault it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The status that answered an upgrade, with [`Kind::InvalidUpgrade`].
    #[must_use]
    pub fn status(&self) -> Option<http::StatusCode> {
        self.status
    }

    /// The innermost cause in words, for evidence in a report.
    #[must_use]
    pub fn root_cause(&self) -> String {
        let mut cause: &dyn Error = self;
        while let Some(next) = cause.source() {
            cause = next;
        }
        cause.to_string()
    }
}

/// Walks the causes from the outside in. The innermost that says something decides: an outer "connection error" hides an inner certificate fault.
fn kind_of(error: &(dyn Error + 'static)) -> Option<Kind> {
    let mut found = None;
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(inner) = error.downcast_ref::<ProxyError>() {
            return Some(inner.kind);
        }
        // Beneath it is the caller's connection, whose faults are not the upstream's.
        if error.is::<crate::body::ClientBodyError>() {
            return Some(Kind::Request);
        }
        if let Some(kind) = one(error) {
            found = Some(kind);
        }
        // `io::Error::source` skips the error that it wraps and returns that error's own source.
        next = match error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref)
        {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    found
}

fn one(error: &(dyn Error + 'static)) -> Option<Kind> {
    if let Some(error) = error.downcast_ref::<rustls::Error>() {
        return Some(tls_kind(error));
    }
    if let Some(error) = error.downcast_ref::<hyper::Error>() {
        return if error.is_parse() || error.is_parse_too_large() {
            Some(Kind::Malformed)
        } else if error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
            Some(Kind::Reset)
        } else if error.is_user() {
            Some(Kind::Request)
        } else {
            None
        };
    }
    let error = error.downcast_ref::<io::Error>()?;
    io_kind(error)
}

pub(crate) fn io_kind(error: &io::Error) -> Option<Kind> {
    use io::ErrorKind as E;
    match error.kind() {
        E::ConnectionRefused | E::HostUnreachable | E::NetworkUnreachable | E::AddrNotAvailable => {
            Some(Kind::Unreachable)
        }
        E::TimedOut => Some(Kind::Timeout),
        E::ConnectionReset
        | E::ConnectionAborted
        | E::BrokenPipe
        | E::UnexpectedEof
        | E::NotConnected => Some(Kind::Reset),
        _ => None,
    }
}

pub(crate) fn tls_kind(error: &rustls::Error) -> Kind {
    use rustls::{AlertDescription as A, CertificateError as C, Error as E};
    match error {
        E::InvalidCertificate(certificate) => match certificate {
            C::Expired
            | C::ExpiredContext { .. }
            | C::NotValidYet
            | C::NotValidYetContext { .. } => Kind::TlsExpired,
            C::NotValidForName | C::NotValidForNameContext { .. } => Kind::TlsName,
            _ => Kind::TlsUntrusted,
        },
        E::NoCertificatesPresented => Kind::TlsUntrusted,
        E::AlertReceived(
            A::BadCertificate
            | A::UnsupportedCertificate
            | A::CertificateRevoked
            | A::CertificateExpired
            | A::CertificateUnknown
            | A::UnknownCA
            | A::AccessDenied
            // What an authority says of a certificate that another one of the same name has signed.
            | A::DecryptError
            | A::CertificateRequired,
        ) => Kind::CertificateRefused,
        _ => Kind::Tls,
    }
}
