//! What lies below an object: status, scale, finalize, binding, eviction, token, and what the node answers.

use http::{Request, Response, StatusCode};
use serde_json::{Value, json};

use crate::connect::{Body, Connect};
use crate::kind::Scale;
use crate::patch::{self, PatchType};
use crate::service_account::answer_token_request;
use crate::status::ApiError;
use crate::store::Key;

use super::apply::Claim;
use super::context::Context;
use super::delete::{DeleteOptions, Outcome};
use super::write::{Part, Update, success};
use super::{Api, body, metadata};

impl Api {
    /// A request below an object.
    pub(super) async fn subresource(
        &self,
        context: &mut Context,
        request: Request<Body>,
    ) -> Result<Response<Body>, ApiError> {
        let name = context.target.subresource.clone();
        let verb = context.target.verb.clone();
        if context.kind.namespaced && context.target.namespace.is_empty() {
            return Err(super::no_such_resource());
        }
        let kind = context.kind.clone();
        match (name.as_str(), verb.as_str()) {
            ("status", "get" | "update" | "patch") if kind.status_subresource => {
                self.whole(context, request, Part::Status).await
            }
            ("scale", "get" | "update" | "patch") => match &kind.scale {
                Some(scale) => self.scale(context, scale, request).await,
                None => Err(super::no_such_resource()),
            },
            ("status" | "scale", _) if kind.status_subresource || kind.scale.is_some() => {
                Err(ApiError::method_not_allowed())
            }
            _ => {
                let known = kind
                    .subresources
                    .iter()
                    .find(|known| known.name == name)
                    .ok_or_else(super::no_such_resource)?;
                if !known.verbs.contains(&verb.as_str()) {
                    return Err(ApiError::method_not_allowed());
                }
                match name.as_str() {
                    "finalize" => self.finalize(context, request).await,
                    "binding" => self.bind(context, request).await,
                    "eviction" => self.evict(context, request).await,
                    "token" => self.token(context, request).await,
                    "ephemeralcontainers" | "resize" => {
                        self.whole(context, request, Part::Main).await
                    }
                    "approval" => self.whole(context, request, Part::Status).await,
                    _ => self.connect(context, request).await,
                }
            }
        }
    }

    async fn whole(
        &self,
        context: &mut Context,
        request: Request<Body>,
        part: Part,
    ) -> Result<Response<Body>, ApiError> {
        if context.target.verb == "get" {
            return super::read::get(self.store(), context);
        }
        let bytes = body::collect(request.into_body()).await?;
        let object = if context.applies() {
            self.apply(context, &bytes, part).await?.1
        } else if context.target.verb == "patch" {
            self.patch(context, &bytes, part).await?
        } else {
            let object = body::parse(&context.headers, &bytes, &context.kind.kind)?;
            self.replace(context, object, part).await?
        };
        Ok(context.object(StatusCode::OK, object))
    }

    async fn scale(
        &self,
        context: &mut Context,
        scale: &Scale,
        request: Request<Body>,
    ) -> Result<Response<Body>, ApiError> {
        let key = context.key();
        let stored = self.store().get(&key).ok_or_else(|| context.not_found())?;
        let current = scale_of(scale, &context.read(&stored));
        let form = context.form;
        if context.target.verb == "get" {
            return Ok(form.document(StatusCode::OK, &current));
        }
        let bytes = body::collect(request.into_body()).await?;
        let options = match context.target.verb.as_str() {
            "patch" => "PatchOptions",
            _ => "UpdateOptions",
        };
        let (wanted, dry_run) = if context.target.verb == "patch" {
            let content_type = body::media_type(&context.headers);
            let patch_type = PatchType::from_content_type(&context.kind, &content_type)?;
            (
                patch::apply(&context.kind, patch_type, &bytes, &current)?,
                context.dry_run(options)?,
            )
        } else {
            (
                body::parse(&context.headers, &bytes, "Scale")?,
                context.dry_run(options)?,
            )
        };
        let author = context.author(options)?;
        let version = metadata::text(&wanted, "resourceVersion").to_owned();
        // A PATCH starts from the Scale of now, so its revision only says what was read.
        let demanded = context.target.verb != "patch"
            || version != metadata::text(&current, "resourceVersion");
        let replicas = wanted
            .pointer("/spec/replicas")
            .cloned()
            .unwrap_or_else(|| 0.into());
        if replicas.as_i64().is_none_or(|number| number < 0) {
            let fault = crate::status::FieldError {
                field: "spec.replicas".to_owned(),
                reason: "FieldValueInvalid",
                detail: format!("Invalid value: {replicas}: must be greater than or equal to 0"),
            };
            return Err(ApiError::invalid(
                "autoscaling",
                "Scale",
                &context.target.name,
                &[fault],
            ));
        }
        let (kind, namespace) = (context.kind.clone(), context.namespace().to_owned());
        let update = Update {
            kind: &kind,
            user: &context.user,
            namespace: &namespace,
            name: &context.target.name,
            part: Part::Main,
            dry_run,
            retry: !demanded || version.is_empty(),
            claim: Claim::Write(author.as_ref()),
        };
        let object = self
            .update(&update, &mut context.warnings, |object| {
                let mut object = object.clone();
                if demanded {
                    metadata::set(&mut object, "resourceVersion", version.clone().into());
                }
                set_path(&mut object, &scale.spec_replicas, replicas.clone());
                Ok(object)
            })
            .await?;
        Ok(form.document(StatusCode::OK, &scale_of(scale, &object)))
    }

    async fn finalize(
        &self,
        context: &mut Context,
        request: Request<Body>,
    ) -> Result<Response<Body>, ApiError> {
        let bytes = body::collect(request.into_body()).await?;
        let wanted = body::parse(&context.headers, &bytes, &context.kind.kind)?;
        let finalizers = wanted
            .pointer("/spec/finalizers")
            .cloned()
            .unwrap_or(Value::Null);
        let version = metadata::text(&wanted, "resourceVersion").to_owned();
        let kind = context.kind.clone();
        let update = Update {
            kind: &kind,
            user: &context.user,
            namespace: "",
            name: &context.target.name,
            part: Part::System,
            dry_run: context.dry_run("UpdateOptions")?,
            retry: version.is_empty(),
            claim: Claim::Write(None),
        };
        let object = self
            .update(&update, &mut context.warnings, |object| {
                let mut object = object.clone();
                if !version.is_empty() {
                    metadata::set(&mut object, "resourceVersion", version.clone().into());
                }
                let empty = finalizers.as_array().is_none_or(Vec::is_empty);
                if empty {
                    if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
                        spec.remove("finalizers");
                    }
                } else {
                    set_path(&mut object, ".spec.finalizers", finalizers.clone());
                }
                Ok(object)
            })
            .await?;
        Ok(context.object(StatusCode::OK, object))
    }

    async fn bind(
        &self,
        context: &mut Context,
        request: Request<Body>,
    ) -> Result<Response<Body>, ApiError> {
        let bytes = body::collect(request.into_body()).await?;
        let binding = body::parse(&context.headers, &bytes, "Binding")?;
        let node = binding
            .pointer("/target/name")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        let (kind, namespace) = (context.kind.clone(), context.namespace().to_owned());
        let name = context.target.name.clone();
        let update = Update {
            kind: &kind,
            user: &context.user,
            namespace: &namespace,
            name: &name,
            part: Part::System,
            dry_run: context.dry_run("CreateOptions")?,
            retry: true,
            claim: Claim::Write(None),
        };
        let now = super::write::time(context.now);
        self.update(&update, &mut context.warnings, |object| {
            let conflict = |why: String| {
                let mut error = ApiError::conflict("", "pods/binding", &name, &why);
                error.details = json!({"name": name, "kind": "pods/binding"});
                error
            };
            if !metadata::get(object, "deletionTimestamp").is_null() {
                return Err(conflict(format!(
                    "pod {name} is being deleted, cannot be assigned to a host"
                )));
            }
            if let Some(taken) = object
                .pointer("/spec/nodeName")
                .and_then(Value::as_str)
                .filter(|taken| !taken.is_empty())
            {
                return Err(conflict(format!(
                    "pod {name} is already assigned to node {taken:?}"
                )));
            }
            let mut object = object.clone();
            set_path(&mut object, ".spec.nodeName", node.clone().into());
            if !object
                .pointer("/status/conditions")
                .is_some_and(Value::is_array)
            {
                set_path(&mut object, ".status.conditions", json!([]));
            }
            if let Some(conditions) = object
                .pointer_mut("/status/conditions")
                .and_then(Value::as_array_mut)
            {
                conditions.retain(|condition| condition["type"] != "PodScheduled");
                conditions.push(json!({
                    "type": "PodScheduled", "status": "True",
                    "lastProbeTime": null, "lastTransitionTime": now,
                }));
            }
            Ok(object)
        })
        .await?;
        let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
        Ok(context.form.document(StatusCode::CREATED, &status))
    }

    async fn evict(
        &self,
        context: &mut Context,
        request: Request<Body>,
    ) -> Result<Response<Body>, ApiError> {
        let bytes = body::collect(request.into_body()).await?;
        let eviction = body::parse(&context.headers, &bytes, "Eviction")?;
        let given = eviction
            .get("deleteOptions")
            .map(Value::to_string)
            .unwrap_or_default();
        let mut options = DeleteOptions::read(context, given.as_bytes())?;
        options.dry_run |= context.dry_run("CreateOptions")?;
        let (kind, key): (_, Key) = (context.kind.clone(), context.key());
        let outcome = self
            .remove(&kind, &context.user, &key, &context.target.name, &options)
            .await?;
        let (Outcome::Gone(object) | Outcome::Pending(object)) = outcome;
        let mut status = success(&kind, &object);
        if let Some(fields) = status.as_object_mut() {
            fields.remove("details");
            fields.insert("code".to_owned(), 201.into());
        }
        Ok(context.form.document(StatusCode::CREATED, &status))
    }

    async fn token(
        &self,
        context: &mut Context,
        request: Request<Body>,
    ) -> Result<Response<Body>, ApiError> {
        let bytes = body::collect(request.into_body()).await?;
        let wanted = body::parse(&context.headers, &bytes, "TokenRequest")?;
        let stored = self
            .store()
            .get(&context.key())
            .ok_or_else(|| context.not_found())?;
        let authenticator = self.authenticator();
        let answer = answer_token_request(
            authenticator.authority().token_key(),
            &stored.value(),
            &wanted,
            authenticator.accounts(),
            context.now,
        )?;
        Ok(context.form.document(StatusCode::CREATED, &answer))
    }

    async fn connect(
        &self,
        context: &mut Context,
        request: Request<Body>,
    ) -> Result<Response<Body>, ApiError> {
        let target = &context.target;
        // A websocket starts with a GET, but what goes through it is no reading.
        if matches!(
            target.subresource.as_str(),
            "exec" | "attach" | "portforward"
        ) {
            self.may_create(context, &target.subresource)?;
        }
        // A Service may be named with a scheme and a port: `[scheme:]name[:port]`.
        let name = match (
            target.resource.as_str(),
            target.name.split(':').collect::<Vec<_>>().as_slice(),
        ) {
            ("services" | "pods" | "nodes", [name, _]) => (*name).to_owned(),
            ("services" | "pods" | "nodes", [_, name, _]) => (*name).to_owned(),
            _ => target.name.clone(),
        };
        let key = Key::new(&context.kind.storage_key(), context.namespace(), &name);
        let stored = self
            .store()
            .get(&key)
            .ok_or_else(|| ApiError::not_found(&context.kind.group, &context.kind.plural, &name))?;
        let object = context.read(&stored);
        let connector = self
            .connector()
            .ok_or_else(|| ApiError::new(503, "ServiceUnavailable", "no node runs"))?;
        Ok(connector
            .connect(Connect {
                resource: target.resource.clone(),
                subresource: target.subresource.clone(),
                namespace: target.namespace.clone(),
                name: target.name.clone(),
                object,
                rest: target.rest.clone(),
                request,
            })
            .await)
    }
}

/// The Scale of an object.
fn scale_of(scale: &Scale, object: &Value) -> Value {
    let mut metadata = serde_json::Map::new();
    for field in [
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "creationTimestamp",
    ] {
        let value = metadata::get(object, field);
        if !value.is_null() {
            metadata.insert(field.to_owned(), value);
        }
    }
    let number = |path: &str| object.pointer(&pointer(path)).and_then(Value::as_i64);
    let mut spec = serde_json::Map::new();
    if let Some(replicas) = number(&scale.spec_replicas).filter(|number| *number != 0) {
        spec.insert("replicas".to_owned(), replicas.into());
    }
    let mut status = json!({"replicas": number(&scale.status_replicas).unwrap_or(0)});
    if let Some(path) = &scale.label_selector {
        let text = match object.pointer(&pointer(path)) {
            Some(Value::String(text)) => text.clone(),
            Some(selector) => selector_text(selector),
            None => String::new(),
        };
        if !text.is_empty() {
            status["selector"] = text.into();
        }
    }
    json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1",
        "metadata": metadata, "spec": spec, "status": status,
    })
}

/// A LabelSelector, or a plain map of labels, as text.
fn selector_text(selector: &Value) -> String {
    let mut parts: Vec<String> = Vec::new();
    let labels = selector.get("matchLabels").or(
        // ReplicationControllers select by a plain map.
        selector
            .get("matchExpressions")
            .is_none()
            .then_some(selector),
    );
    for (key, value) in labels.and_then(Value::as_object).into_iter().flatten() {
        if let Some(value) = value.as_str() {
            parts.push(format!("{key}={value}"));
        }
    }
    for expression in selector
        .get("matchExpressions")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        let key = expression["key"].as_str().unwrap_or_default();
        let values: Vec<&str> = expression["values"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        parts.push(match expression["operator"].as_str() {
            Some("In") => format!("{key} in ({})", values.join(",")),
            Some("NotIn") => format!("{key} notin ({})", values.join(",")),
            Some("DoesNotExist") => format!("!{key}"),
            _ => key.to_owned(),
        });
    }
    parts.sort();
    parts.join(",")
}

fn pointer(path: &str) -> String {
    path.replace('.', "/")
}

/// Sets what lies at a dotted path, making the objects on the way.
fn set_path(object: &mut Value, path: &str, value: Value) {
    let mut at = object;
    for step in path.split('.').filter(|step| !step.is_empty()) {
        if !at.is_object() {
            *at = json!({});
        }
        at = &mut at[step];
    }
    *at = value;
}
