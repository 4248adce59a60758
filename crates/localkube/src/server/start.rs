//! What must exist before the first request.

use serde_json::Value;

use crate::identity::User;
use crate::registry::DEFINITIONS;
use crate::status::ApiError;
use crate::store::Key;

use super::apply::Claim;
use super::write::{Part, Update};
use super::{Api, metadata};

/// An object that could not be made.
#[derive(Debug)]
pub struct Refused {
    /// Its kind and name.
    pub what: String,
    /// Why.
    pub error: ApiError,
}

fn system() -> User {
    User {
        name: "system:apiserver".to_owned(),
        groups: vec!["system:masters".to_owned()],
        ..User::default()
    }
}

impl Api {
    /// Makes sure that these objects exist. Those that do stay as they are, except that definitions are
    /// brought up to what is given.
    ///
    /// # Errors
    /// The first one that is refused, or whose kind is not served.
    pub async fn ensure(&self, objects: Vec<Value>) -> Result<(), Refused> {
        let user = system();
        let kinds = self.kinds();
        let tasks = objects.into_iter().map(|object| {
            let (kinds, user) = (kinds.clone(), user.clone());
            async move {
                let text = |name: &str| object[name].as_str().unwrap_or_default().to_owned();
                let name = metadata::text(&object, "name").to_owned();
                let namespace = metadata::text(&object, "namespace").to_owned();
                let what = format!("{} {namespace}/{name}", text("kind"));
                let refused = |error| Refused {
                    what: what.clone(),
                    error,
                };
                let kind = kinds
                    .of_object(&text("apiVersion"), &text("kind"))
                    .ok_or_else(|| refused(super::no_such_resource()))?;
                let key = Key::new(&kind.storage_key(), &namespace, &name);
                let mut warnings = Vec::new();
                let update = Update {
                    kind: &kind,
                    user: &user,
                    namespace: &namespace,
                    name: &name,
                    part: Part::Main,
                    dry_run: false,
                    retry: true,
                    claim: Claim::Write(None),
                };
                if self.store().get(&key).is_none() {
                    match self.insert(&update, object.clone(), &mut warnings).await {
                        Ok(_) => {}
                        Err(error) if error.reason == "AlreadyExists" => return Ok(()),
                        Err(error) => return Err(refused(error)),
                    }
                    return Ok(());
                }
                if kind.storage_key() != DEFINITIONS {
                    return Ok(());
                }
                self.update(&update, &mut warnings, |current| {
                    let mut new = current.clone();
                    new["spec"] = object["spec"].clone();
                    Ok(new)
                })
                .await
                .map_err(refused)?;
                Ok(())
            }
        });
        // Together, so that they share commits.
        futures::future::try_join_all(tasks).await?;
        Ok(())
    }
}
