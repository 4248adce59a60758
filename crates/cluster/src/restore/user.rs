//! The caller's User on the member, where it is missing or disabled there.

use super::RestoreError;
use crate::{AccessCode, CallerCredential, Host, Member, propagate};

/// Who is to be brought to the member, if that is what is wrong.
pub(super) fn at_fault(code: Option<AccessCode>, proof: &CallerCredential) -> Option<String> {
    match (code, proof) {
        (
            Some(AccessCode::UserMissing | AccessCode::UserDisabled),
            CallerCredential::User { name, .. },
        ) => Some(name.clone()),
        _ => None,
    }
}

/// Whether [`ensure`] could do its work as things are.
pub(super) async fn may_be_brought(
    host: &Host,
    member: &Member,
    name: &str,
    code: Option<AccessCode>,
) -> Result<(), RestoreError> {
    let done = propagate::check_user(host, member, name).await;
    done.map_err(|error| RestoreError::User {
        code,
        source: Box::new(error),
    })
}

/// Brings this user with its global roles from the host to the member, as propagation does. May be done twice.
pub(super) async fn ensure(host: &Host, member: &Member, name: &str) -> Result<(), RestoreError> {
    let done = propagate::ensure_user(host, member, name).await;
    done.map(drop).map_err(|error| RestoreError::User {
        code: None,
        source: Box::new(error),
    })
}
