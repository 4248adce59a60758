//! Taking a member's trust away on purpose, to see it found and repaired.

use std::str::FromStr;

use crate::failure::Failure;

/// What is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The member accepts only tokens of its own cache.
    TokenCache,
    /// The member has another secret than the host.
    JwtSecret,
}

/// One `--break MEMBER=FAULT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Which member.
    pub member: String,
    /// What is broken.
    pub kind: Kind,
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (member, kind) = text
            .split_once('=')
            .ok_or("write MEMBER=token-cache or MEMBER=jwt-secret, e.g. member-2=token-cache")?;
        let kind = match kind {
            "token-cache" => Kind::TokenCache,
            "jwt-secret" => Kind::JwtSecret,
            other => return Err(format!("{other} is no fault: token-cache or jwt-secret")),
        };
        Ok(Fault {
            member: member.to_owned(),
            kind,
        })
    }
}

/// Refuses faults of members that will not exist.
pub fn check(faults: &[Fault], members: u16) -> Result<(), Failure> {
    for fault in faults {
        let number = fault
            .member
            .strip_prefix("member-")
            .and_then(|number| number.parse::<u16>().ok());
        if number.is_none_or(|number| number == 0 || number > members) {
            return Err(Failure::new(
                format!(
                    "There is no {} to break among {members} members.",
                    fault.member
                ),
                "Members are called member-1, member-2 and so on; --members says how many there are.",
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_read_and_checked() {
        let fault: Fault = "member-2=token-cache".parse().unwrap();
        assert_eq!(
            (fault.member.as_str(), fault.kind),
            ("member-2", Kind::TokenCache)
        );
        assert!("member-2".parse::<Fault>().is_err());
        assert!("member-2=rust".parse::<Fault>().is_err());
        assert!(check(std::slice::from_ref(&fault), 2).is_ok());
        assert!(check(&[fault], 1).is_err());
        assert!(check(&["host=jwt-secret".parse().unwrap()], 2).is_err());
    }
}
