//! May they: the seam of the authoriser. This slice knows one role, `platform-admin`, which may do everything;
//! others may do what needs no role.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use kah_api::{
    iam::{GlobalRoleBinding, PLATFORM_ADMIN},
    path::Target,
};
use kube::ResourceExt;

use crate::authenticate::Identity;

/// What an authoriser says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Go on.
    Allow,
    /// Refuse, with a reason for the message, which may be empty.
    Refuse(String),
}

/// Who holds `platform-admin`.
#[derive(Default)]
pub struct GlobalRoles {
    bindings: RwLock<HashMap<String, GlobalRoleBinding>>,
}

impl GlobalRoles {
    /// Takes the place of all.
    pub fn replace(&self, bindings: Vec<GlobalRoleBinding>) {
        let bindings = bindings
            .into_iter()
            .map(|binding| (binding.name_any(), binding))
            .collect();
        *self
            .bindings
            .write()
            .unwrap_or_else(PoisonError::into_inner) = bindings;
    }

    /// Adds or changes one.
    pub fn apply(&self, binding: GlobalRoleBinding) {
        self.bindings
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(binding.name_any(), binding);
    }

    /// Forgets one.
    pub fn remove(&self, name: &str) {
        self.bindings
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(name);
    }

    /// Whether a binding gives this identity `platform-admin`.
    #[must_use]
    pub fn is_platform_admin(&self, identity: &Identity) -> bool {
        let bindings = self.bindings.read().unwrap_or_else(PoisonError::into_inner);
        bindings
            .values()
            .filter(|binding| {
                binding.role_ref.kind == "GlobalRole" && binding.role_ref.name == PLATFORM_ADMIN
            })
            .flat_map(|binding| binding.subjects.iter().flatten())
            .any(|subject| match subject.kind.as_str() {
                "User" => subject.name == identity.name,
                "Group" => identity.groups.contains(&subject.name),
                _ => false,
            })
    }
}

/// Whether a path may be used by anyone (authorization.md §4): compared with the path as asked, so a cluster
/// prefix or a trailing slash breaks the match.
#[must_use]
pub fn needs_no_role(path: &str) -> bool {
    let path = path.strip_prefix('/').unwrap_or(path);
    matches!(path, "kapis/version" | "kapis/metrics" | "healthz")
        || path.starts_with("oauth/")
        || path.starts_with("kapis/config.kubesphere.io/")
}

/// Whether a host passes a path on to a member for nobody in particular: of those that [`needs_no_role`] what only tells something. A login at a
/// member is none of them: it would be asked, and its passwords guessed, by whoever likes (security-tests.md S14).
#[must_use]
pub fn passes_for_nobody(path: &str) -> bool {
    needs_no_role(path) && !path.strip_prefix('/').unwrap_or(path).starts_with("oauth/")
}

/// Whether anybody may use a path of this server itself: those that [`needs_no_role`], and the doors by which agents come, which look at what they
/// are shown. The doors are no part of `needs_no_role` because most of what that names is passed on to members for anybody.
#[must_use]
pub fn is_open(path: &str) -> bool {
    const HUB: &str = "/kapis/hub.kubeaihub.io/v1/";
    needs_no_role(path)
        || path
            .strip_prefix(HUB)
            .is_some_and(|path| matches!(path, "enrol" | "tunnel") || path.starts_with("join/"))
}

/// Answers "may this identity do this".
pub struct Authorizer {
    mode: String,
    roles: Arc<GlobalRoles>,
}

impl Authorizer {
    /// With `authorization.mode` of the configuration; a word that is no mode refuses everything.
    #[must_use]
    pub fn new(mode: &str, roles: Arc<GlobalRoles>) -> Self {
        Self {
            mode: mode.to_owned(),
            roles,
        }
    }

    /// Decides about one request.
    ///
    /// An evaluator of rules has to judge `exec`, `attach` and `portforward` by GET (a websocket) as `create`
    /// (security-tests.md P7): the target's verb is Kubernetes' own, `get`. With one role that may do everything,
    /// and others that may do nothing there, the two make no difference yet.
    #[must_use]
    pub fn authorize(&self, identity: &Identity, target: &Target) -> Decision {
        let allowed = match self.mode.as_str() {
            "AlwaysAllow" => true,
            "RBAC" => is_open(&target.path) || self.roles.is_platform_admin(identity),
            _ => return Decision::Refuse("Everything is forbidden.".to_owned()),
        };
        if allowed {
            Decision::Allow
        } else {
            Decision::Refuse(String::new())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_logs_in_at_a_member() {
        for (path, passes) in [
            ("/kapis/version", true),
            ("/kapis/config.kubesphere.io/v1alpha2/configs/configz", true),
            ("/healthz", true),
            ("/oauth/token", false),
            ("oauth/authorize", false),
            ("/api/v1/pods", false),
        ] {
            assert_eq!(passes_for_nobody(path), passes, "{path}");
        }
    }

    #[test]
    fn platform_admins_and_open_paths() {
        let roles = Arc::new(GlobalRoles::default());
        roles.replace(vec![
            GlobalRoleBinding::for_user("a", "admin", PLATFORM_ADMIN),
            GlobalRoleBinding::for_user("b", "bob", "platform-regular"),
        ]);
        let target = |path: &str| kah_api::path::parse(&"GET".parse().unwrap(), path).unwrap();
        let user = |name: &str| Identity {
            name: name.into(),
            ..Identity::default()
        };
        let rbac = Authorizer::new("RBAC", Arc::clone(&roles));
        assert_eq!(
            rbac.authorize(&user("admin"), &target("/api/v1/nodes")),
            Decision::Allow
        );
        assert_eq!(
            rbac.authorize(&user("bob"), &target("/api/v1/nodes")),
            Decision::Refuse(String::new())
        );
        for (path, open) in [
            ("/oauth/token", true),
            ("/kapis/version", true),
            ("/healthz", true),
            ("/healthz/", false),
            ("/oauth", false),
            ("/version", false),
            ("/kapis/clusters/m/version", false),
        ] {
            assert_eq!(
                rbac.authorize(&user("bob"), &target(path)) == Decision::Allow,
                open,
                "{path}"
            );
        }
        let deny = Authorizer::new("AlwaysDeny", roles);
        assert!(
            matches!(deny.authorize(&user("admin"), &target("/healthz")), Decision::Refuse(text) if !text.is_empty())
        );
    }
}
