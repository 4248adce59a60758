//! What is decided about an object from the state of others: its namespace, its account, its addresses.

use serde_json::{Value, json};

use crate::builtin::service;
use crate::identity::User;
use crate::kind::Kind;
use crate::registry::DEFINITIONS;
use crate::status::{ApiError, FieldError};
use crate::store::{Change, Document, Expect, Key};
use crate::{crd, rbac};

use super::write::Update;
use super::{Api, metadata};

const ROLES: &str = "rbac.authorization.k8s.io";
/// How many addresses or ports are tried for a Service.
const ATTEMPTS: u32 = 4096;

impl Api {
    /// Judges and completes an object that is about to be created.
    pub(super) fn admit_create(
        &self,
        kind: &Kind,
        user: &User,
        namespace: &str,
        object: &mut Value,
        warnings: &mut Vec<String>,
    ) -> Result<(), ApiError> {
        if kind.namespaced {
            self.check_namespace_is_open(kind, namespace, object)?;
        }
        match kind.storage_key().as_str() {
            DEFINITIONS => self.admit_definition(kind, object, None, warnings)?,
            "services" => self.allocate(namespace, object),
            "namespaces" => {
                let name = metadata::text(object, "name").to_owned();
                if let Some(labels) = labels(object) {
                    labels.insert("kubernetes.io/metadata.name".to_owned(), name.into());
                }
            }
            _ => {}
        }
        if kind.group == ROLES {
            self.policy()
                .check_escalation(user, &kind.plural, object, None)?;
        }
        Ok(())
    }

    /// Judges and completes an object that is about to be changed.
    pub(super) fn admit_update(
        &self,
        kind: &Kind,
        update: &Update<'_>,
        current: &Value,
        new: &mut Value,
        warnings: &mut Vec<String>,
    ) -> Result<(), ApiError> {
        match kind.storage_key().as_str() {
            DEFINITIONS if update.part == super::write::Part::Main => {
                self.admit_definition(kind, new, Some(current), warnings)?;
            }
            "services" => self.allocate(update.namespace, new),
            _ => {}
        }
        if kind.group == ROLES {
            self.policy()
                .check_escalation(update.user, &kind.plural, new, Some(current))?;
        }
        Ok(())
    }

    fn check_namespace_is_open(
        &self,
        kind: &Kind,
        namespace: &str,
        object: &Value,
    ) -> Result<(), ApiError> {
        let stored = self
            .store()
            .get(&Key::new("namespaces", "", namespace))
            .ok_or_else(|| ApiError::not_found("", "namespaces", namespace))?;
        if metadata::get(&stored.value(), "deletionTimestamp").is_null() {
            return Ok(());
        }
        let name = metadata::text(object, "name");
        let mut error = ApiError::forbidden(
            &kind.group,
            &kind.plural,
            name,
            &format!(
                "unable to create new content in namespace {namespace} because it is being terminated"
            ),
        );
        error.details["causes"] = json!([{
            "reason": "NamespaceTerminating",
            "message": format!("namespace {namespace} is being terminated"),
            "field": "metadata.namespace",
        }]);
        Err(error)
    }

    fn admit_definition(
        &self,
        kind: &Kind,
        object: &mut Value,
        current: Option<&Value>,
        warnings: &mut Vec<String>,
    ) -> Result<(), ApiError> {
        crd::default(object);
        let faults: Vec<FieldError> = crd::validate(object, current);
        if !faults.is_empty() {
            let name = metadata::text(object, "name");
            return Err(ApiError::invalid(&kind.group, &kind.kind, name, &faults));
        }
        warnings.extend(crd::warnings(object));
        let others: Vec<Value> = self
            .store()
            .list(DEFINITIONS, "", None, None, None)
            .unwrap_or_default()
            .items
            .into_iter()
            .map(|(_, stored)| stored.value())
            .collect();
        crd::establish(object, &others, self.now());
        Ok(())
    }

    /// Gives a Service an address and node ports that no other has. Strategies propose them from its name.
    fn allocate(&self, namespace: &str, object: &mut Value) {
        let name = metadata::text(object, "name").to_owned();
        let others: Vec<Value> = self
            .store()
            .list("services", "", None, None, None)
            .unwrap_or_default()
            .items
            .into_iter()
            .map(|(_, stored)| stored.value())
            .filter(|other| {
                metadata::text(other, "name") != name
                    || metadata::text(other, "namespace") != namespace
            })
            .collect();
        let proposed = service::cluster_ip(namespace, &name, 0);
        let address = |object: &Value| {
            object
                .pointer("/spec/clusterIP")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        if address(object) == proposed {
            let free = (0..ATTEMPTS)
                .map(|attempt| service::cluster_ip(namespace, &name, attempt))
                .find(|candidate| others.iter().all(|other| address(other) != *candidate));
            if let Some(free) = free {
                object["spec"]["clusterIP"] = free.clone().into();
                object["spec"]["clusterIPs"] = json!([free]);
            }
        }
        let mut taken: Vec<i64> = others
            .iter()
            .filter_map(|other| other.pointer("/spec/ports")?.as_array())
            .flatten()
            .filter_map(|port| port.get("nodePort")?.as_i64())
            .collect();
        let ports = object
            .pointer_mut("/spec/ports")
            .and_then(Value::as_array_mut);
        for port in ports.into_iter().flatten() {
            let Some(given) = port.get("nodePort").and_then(Value::as_i64) else {
                continue;
            };
            let label = format!(
                "{}/{}",
                port.get("port").and_then(Value::as_u64).unwrap_or(0),
                port.get("protocol")
                    .and_then(Value::as_str)
                    .unwrap_or("TCP")
            );
            let proposal = i64::from(service::node_port(namespace, &name, &label, 0));
            if given == proposal && taken.contains(&given) {
                let free = (1..ATTEMPTS)
                    .map(|attempt| i64::from(service::node_port(namespace, &name, &label, attempt)))
                    .find(|candidate| !taken.contains(candidate));
                if let Some(free) = free {
                    port["nodePort"] = free.into();
                }
            }
            taken.extend(port.get("nodePort").and_then(Value::as_i64));
        }
    }

    /// Writes the rules of aggregated ClusterRoles that have changed.
    pub(super) async fn aggregate_roles(&self) {
        const CLUSTER_ROLES: &str = "clusterroles.rbac.authorization.k8s.io";
        let roles: Vec<Value> = self
            .store()
            .list(CLUSTER_ROLES, "", None, None, None)
            .unwrap_or_default()
            .items
            .into_iter()
            .map(|(_, stored)| stored.value())
            .collect();
        for role in rbac::aggregate(&roles) {
            let name = metadata::text(&role, "name");
            let Ok(revision) = metadata::text(&role, "resourceVersion").parse() else {
                continue;
            };
            let key = Key::new(CLUSTER_ROLES, "", name);
            // Another writer's change calls this again, so losing to it loses nothing.
            let _ = self
                .store()
                .write(
                    key,
                    Expect::Revision(revision),
                    Change::Put(Document::new(&role)),
                )
                .await;
        }
    }
}

fn labels(object: &mut Value) -> Option<&mut serde_json::Map<String, Value>> {
    object
        .get_mut("metadata")?
        .as_object_mut()?
        .entry("labels")
        .or_insert_with(|| json!({}))
        .as_object_mut()
}
