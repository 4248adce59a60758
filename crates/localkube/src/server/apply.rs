//! `application/apply-patch+yaml`, and who owns the fields of what is written in other ways.

use http::StatusCode;
use serde_json::Value;

use crate::apply::{Author, Ownership, go_version};
use crate::identity::Attributes;
use crate::kind::Kind;
use crate::patch::PatchType;
use crate::rbac;
use crate::status::{ApiError, FieldError};

use super::context::{Context, options_fault};
use super::field_validation::FieldValidation;
use super::write::{Part, TRIES, Update, check_name, check_namespace, now_text};
use super::{Api, metadata};

/// Longest name of a field manager.
const LONGEST_MANAGER: usize = 128;

/// On whose account a write goes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Claim<'a> {
    /// Of an ordinary writer. What the server itself writes belongs to nobody.
    Write(Option<&'a Author>),
    /// The object says already who owns it.
    Applied,
}

impl Context {
    /// Who owns what this request writes: the manager it names or else its program. Requests made inside the
    /// process own nothing unless they name a manager, which keeps what controllers write again and again small.
    ///
    /// # Errors
    /// 422 for a name that no manager may have.
    pub fn author(&self, options: &str) -> Result<Option<Author>, ApiError> {
        let named = self.query.get("fieldManager").unwrap_or_default();
        if named.len() > LONGEST_MANAGER {
            return Err(options_fault(
                options,
                "fieldManager",
                "FieldValueTooLong",
                format!("Too long: may not be more than {LONGEST_MANAGER} bytes"),
            ));
        }
        if let Some(at) = named.chars().find(|found| found.is_control()) {
            return Err(options_fault(
                options,
                "fieldManager",
                "FieldValueInvalid",
                format!(
                    "Invalid value: {named:?}: should only contain printable characters, found {at:?}"
                ),
            ));
        }
        if named.is_empty() && self.in_process {
            return Ok(None);
        }
        let agent = self
            .headers
            .get(http::header::USER_AGENT)
            .and_then(|agent| agent.to_str().ok())
            .unwrap_or_default();
        let program: String = agent
            .split('/')
            .next()
            .unwrap_or_default()
            .chars()
            .filter(|c| !c.is_control())
            .take(LONGEST_MANAGER)
            .collect();
        let manager = [named, program.as_str(), "unknown"]
            .into_iter()
            .find(|name| !name.is_empty())
            .unwrap_or_default();
        Ok(Some(Author {
            manager: manager.to_owned(),
            api_version: self.kind.api_version(),
            subresource: self.target.subresource.clone(),
        }))
    }

    /// Whether the request's body is a configuration to apply.
    pub fn applies(&self) -> bool {
        self.target.verb == "patch"
            && super::body::media_type(&self.headers) == "application/apply-patch+yaml"
    }

    /// Checks what every patch must say of its manager.
    ///
    /// # Errors
    /// 422 in the words of kube-apiserver.
    pub fn check_patch_options(&self, form: PatchType) -> Result<(), ApiError> {
        const OPTIONS: &str = "PatchOptions";
        let manager = self.query.get("fieldManager").unwrap_or_default();
        match form {
            PatchType::Apply if manager.is_empty() => Err(options_fault(
                OPTIONS,
                "fieldManager",
                "FieldValueRequired",
                "Required value: is required for apply patch".to_owned(),
            )),
            PatchType::Apply => Ok(()),
            _ if self.query.get("force").is_some() => Err(options_fault(
                OPTIONS,
                "force",
                "FieldValueForbidden",
                "Forbidden: may not be specified for non-apply patch".to_owned(),
            )),
            _ => Ok(()),
        }
    }
}

/// The configuration in a body, judged as far as that goes without the live object.
fn configuration(kind: &Kind, body: &[u8]) -> Result<Value, ApiError> {
    // Programs send JSON, which is YAML too, but read far faster as what it is.
    let config: Value = match serde_json::from_slice(body) {
        Ok(config) => config,
        Err(_) => serde_saphyr::from_slice(body)
            .map_err(|error| ApiError::bad_request(format!("error decoding YAML: {error}")))?,
    };
    if !config.is_object() {
        let found = match config {
            Value::Array(_) => "array",
            Value::String(_) => "string",
            Value::Number(_) => "number",
            Value::Bool(_) => "bool",
            _ => "null",
        };
        return Err(ApiError::bad_request(format!(
            "error decoding YAML: error unmarshaling JSON: while decoding JSON: json: cannot unmarshal {found} into Go value of type map[string]interface {{}}"
        )));
    }
    let text = |name: &str| config.get(name).and_then(Value::as_str).unwrap_or_default();
    if text("kind") != kind.kind || text("apiVersion") != kind.api_version() {
        return Err(ApiError::bad_request(format!(
            "invalid object type: {}, Kind={}",
            go_version(text("apiVersion")),
            text("kind")
        )));
    }
    if !metadata::get(&config, "managedFields").is_null() {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    if let Some(field) = metadata::wrong_type(&config) {
        return Err(ApiError::bad_request(format!(
            "json: cannot unmarshal value into Go struct field ObjectMeta.{field}"
        )));
    }
    Ok(config)
}

/// What a write of this part cannot change.
fn ignored(kind: &Kind, part: Part) -> Option<&'static str> {
    match part {
        Part::Main if kind.status_subresource => Some("status"),
        Part::Status => Some("spec"),
        _ => None,
    }
}

impl Api {
    /// `PATCH` with a configuration, which also makes what does not exist.
    pub(super) async fn apply(
        &self,
        context: &mut Context,
        body: &[u8],
        part: Part,
    ) -> Result<(StatusCode, Value), ApiError> {
        context.check_patch_options(PatchType::Apply)?;
        let dry_run = context.dry_run("PatchOptions")?;
        let author = context.author("PatchOptions")?;
        let force = context.query.flag("force");
        let config = configuration(&context.kind, body)?;
        let validation = FieldValidation::of(&context.query);
        let (kind, name) = (context.kind.clone(), context.target.name.clone());
        let namespace = context.namespace().to_owned();
        let update = Update {
            kind: &kind,
            user: &context.user,
            namespace: &namespace,
            name: &name,
            part,
            dry_run,
            retry: true,
            claim: Claim::Applied,
        };
        let (schema, schemas) = self.documents().schemas_of(&kind);
        let ownership = Ownership::new(
            &kind,
            (&schema, &schemas),
            ignored(&kind, part),
            author.as_ref(),
            now_text(context.now),
        );
        let read = |object: &mut Value, warnings: &mut Vec<String>| {
            self.read_patched(
                &kind,
                validation,
                (PatchType::Apply, body),
                object,
                warnings,
            )
        };
        for _ in 0..TRIES {
            if self.store().get(&context.key()).is_some() || part != Part::Main {
                let applied = self
                    .update(&update, &mut context.warnings, |current| {
                        let mut object = ownership.apply(Some(current), &config, force)?;
                        read(&mut object, &mut Vec::new())?;
                        check_name(&mut object, &name)?;
                        check_namespace(&kind, &namespace, &mut object)?;
                        let uid = metadata::text(&object, "uid").to_owned();
                        if uid != metadata::text(current, "uid") {
                            let fault = FieldError {
                                field: "metadata.uid".to_owned(),
                                reason: "FieldValueInvalid",
                                detail: format!("Invalid value: {uid:?}: field is immutable"),
                            };
                            return Err(ApiError::invalid(
                                &kind.group,
                                &kind.kind,
                                &name,
                                &[fault.clone(), fault],
                            ));
                        }
                        Ok(object)
                    })
                    .await;
                match applied {
                    // It went away in between.
                    Err(error) if error.code == 404 && part == Part::Main => continue,
                    applied => return applied.map(|object| (StatusCode::OK, object)),
                }
            }
            let mut object = ownership.apply(None, &config, force)?;
            read(&mut object, &mut context.warnings)?;
            if metadata::text(&object, "name").is_empty() {
                return Err(ApiError::bad_request(format!(
                    "the name of the object ({name} based on URL) was undeterminable: name must be provided"
                )));
            }
            check_name(&mut object, &name)?;
            // Who applies what does not exist must be allowed to create it.
            self.may_create(context, "")?;
            let uid = metadata::text(&object, "uid");
            if !uid.is_empty() {
                let why = format!(
                    "uid mismatch: the provided object specified uid {uid}, and no existing object was found"
                );
                return Err(ApiError::conflict(&kind.group, &kind.plural, &name, &why));
            }
            metadata::set(&mut object, "resourceVersion", Value::Null);
            match self.insert(&update, object, &mut context.warnings).await {
                // Somebody was faster: then this changes what is there.
                Err(error) if error.reason == "AlreadyExists" => {}
                created => return created.map(|object| (StatusCode::CREATED, object)),
            }
        }
        Err(ApiError::conflict(
            &kind.group,
            &kind.plural,
            &name,
            "the object has been modified; please apply your changes to the latest version and try again",
        ))
    }

    /// Checks that the user may also create what the request names.
    pub(super) fn may_create(&self, context: &Context, subresource: &str) -> Result<(), ApiError> {
        let target = &context.target;
        let attributes = Attributes {
            verb: "create".to_owned(),
            group: target.group.clone(),
            version: target.version.clone(),
            resource: target.resource.clone(),
            subresource: subresource.to_owned(),
            namespace: target.namespace.clone(),
            name: target.name.clone(),
            path: target.path.clone(),
            is_resource: true,
        };
        self.policy()
            .authorize(&context.user, &attributes)
            .map_err(|why| rbac::forbidden(&attributes, &why))
    }

    /// Says in an object who owns its fields after this write. `sent` are the `managedFields` that came with it.
    pub(super) fn claim(
        &self,
        update: &Update<'_>,
        current: Option<&Value>,
        new: &mut Value,
        sent: Value,
    ) {
        let fields = match update.claim {
            Claim::Applied => sent,
            Claim::Write(author) => {
                let before = current.map_or(Value::Null, |current| {
                    metadata::get(current, "managedFields")
                });
                if author.is_none() && before.is_null() {
                    return;
                }
                metadata::set(new, "managedFields", sent);
                let (schema, schemas) = self.documents().schemas_of(update.kind);
                Ownership::new(
                    update.kind,
                    (&schema, &schemas),
                    ignored(update.kind, update.part),
                    author,
                    now_text(self.now()),
                )
                .write(current, new)
            }
        };
        metadata::set(new, "managedFields", fields);
    }
}
