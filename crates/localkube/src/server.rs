//! The REST API of a cluster, as one tower service.

mod admission;
mod answer;
mod apply;
mod body;
mod context;
mod delete;
mod field_validation;
mod metadata;
mod path;
mod read;
mod start;
mod subresource;
mod system;
mod watch;
mod write;

use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context as TaskContext, Poll};

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tower::Service;

use crate::authentication::Authenticator;
use crate::authority::Authority;
use crate::connect::{Body, BoxError, Connector};
use crate::identity::{Attributes, User};
use crate::kind::Kind;
use crate::openapi::Documents;
use crate::rbac::{self, Policy};
use crate::recorder::Clock;
use crate::registry::{Kinds, Registry};
use crate::reviews;
use crate::service_account::Accounts;
use crate::status::ApiError;
use crate::store::{Key, Store};

use answer::Form;
use context::Context;
use path::{Query, Target};

/// The resources that decide who may do what.
const POLICY: [&str; 4] = [
    "clusterroles.rbac.authorization.k8s.io",
    "roles.rbac.authorization.k8s.io",
    "clusterrolebindings.rbac.authorization.k8s.io",
    "rolebindings.rbac.authorization.k8s.io",
];

/// What an API is told by whoever makes it.
#[derive(Clone)]
pub struct Settings {
    /// What `/version` says, e.g. `v1.36.2`.
    pub version: String,
    /// host:port where clients find it.
    pub address: String,
    /// The current time.
    pub clock: Clock,
    /// Ends watches.
    pub shutdown: CancellationToken,
}

/// The API. Clones share it.
#[derive(Clone)]
pub struct Api {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    registry: Registry,
    policy: Arc<ArcSwap<Policy>>,
    policy_revision: AtomicU64,
    authenticator: Authenticator,
    connector: OnceLock<Arc<dyn Connector>>,
    documents: Documents,
    settings: Settings,
}

/// What authentication asks the store.
struct StoredAccounts(Store);

impl Accounts for StoredAccounts {
    fn uid(&self, resource: &str, namespace: &str, name: &str) -> Option<String> {
        let object = self.0.get(&Key::new(resource, namespace, name))?.value();
        let uid = metadata::text(&object, "uid");
        (!uid.is_empty()).then(|| uid.to_owned())
    }
}

fn no_such_resource() -> ApiError {
    let mut error = ApiError::new(
        404,
        "NotFound",
        "the server could not find the requested resource",
    );
    error.details = json!({});
    error
}

impl Api {
    /// An API over this store, for clients that this authority vouches for.
    pub fn new(store: Store, authority: Arc<Authority>, settings: Settings) -> Api {
        let policy = Arc::new(ArcSwap::from_pointee(Policy::default()));
        let clock = settings.clock;
        let authenticator = Authenticator::new(
            authority,
            Arc::new(StoredAccounts(store.clone())),
            policy.clone(),
            Arc::new(clock),
        );
        Api {
            inner: Arc::new(Inner {
                store,
                registry: Registry::new(crate::builtin::kinds()),
                policy,
                policy_revision: AtomicU64::new(0),
                authenticator,
                connector: OnceLock::new(),
                documents: Documents::default(),
                settings,
            }),
        }
    }

    /// The objects behind it.
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// What answers logs, exec and proxied requests from now on. The first call counts.
    pub fn set_connector(&self, connector: Arc<dyn Connector>) {
        let _ = self.inner.connector.set(connector);
    }

    fn connector(&self) -> Option<Arc<dyn Connector>> {
        self.inner.connector.get().cloned()
    }

    /// The kinds that are served now.
    pub fn kinds(&self) -> Arc<Kinds> {
        self.inner.registry.kinds(&self.inner.store)
    }

    fn authenticator(&self) -> &Authenticator {
        &self.inner.authenticator
    }

    fn documents(&self) -> &Documents {
        &self.inner.documents
    }

    fn git_version(&self) -> &str {
        &self.inner.settings.version
    }

    fn address(&self) -> String {
        self.inner.settings.address.clone()
    }

    fn now(&self) -> jiff::Timestamp {
        (self.inner.settings.clock)()
    }

    /// Who may do what, as the stored roles and bindings say now.
    fn policy(&self) -> Arc<Policy> {
        let store = &self.inner.store;
        let changed = POLICY
            .iter()
            .map(|resource| store.changed(resource))
            .max()
            .unwrap_or(0);
        if self.inner.policy_revision.load(Ordering::Acquire) < changed {
            let [cluster_roles, roles, cluster_bindings, bindings] = POLICY.map(|resource| {
                store
                    .list(resource, "", None, None, None)
                    .unwrap_or_default()
                    .items
                    .iter()
                    .map(|(_, stored)| stored.value())
                    .collect::<Vec<_>>()
            });
            let policy = Policy::from_objects(&cluster_roles, &roles, &cluster_bindings, &bindings);
            self.inner.policy.store(Arc::new(policy));
            self.inner
                .policy_revision
                .fetch_max(changed, Ordering::Release);
        }
        self.inner.policy.load_full()
    }

    /// A client that calls this API in the process, as `user`.
    pub fn client(&self, user: User) -> kube::Client {
        let service = As {
            api: self.clone(),
            user,
        };
        kube::Client::new(service, "default")
    }

    /// Answers one request. A [`User`] among its extensions is who it comes from; without one the
    /// request is authenticated.
    pub async fn handle(&self, request: Request<Body>) -> Response<Body> {
        let head = *request.method() == http::Method::HEAD;
        let query = Query::parse(request.uri());
        let errors = Form {
            format: answer::Format::Json,
            view: answer::View::Whole,
            ..Form::negotiate(request.headers(), &query).unwrap_or(Form::JSON)
        };
        let mut response = match self.answer(query, request).await {
            Ok(response) => response,
            Err(error) => errors.refuse(&error),
        };
        if let Ok(id) = HeaderValue::from_str(&uuid::Uuid::new_v4().to_string()) {
            response.headers_mut().insert("audit-id", id);
        }
        if head {
            *response.body_mut() = crate::connect::full(Bytes::new());
        }
        response
    }

    async fn answer(
        &self,
        query: Query,
        request: Request<Body>,
    ) -> Result<Response<Body>, ApiError> {
        let target = Target::parse(request.method(), request.uri(), &query)?;
        // Impersonation is judged by the policy, so that must be of now.
        let policy = self.policy();
        let (parts, body) = request.into_parts();
        let in_process = parts.extensions.get::<User>().is_some();
        let user = match parts.extensions.get::<User>() {
            Some(user) => user.clone(),
            None => self.authenticator().authenticate(&parts)?,
        };
        let attributes = Attributes {
            verb: target.verb.clone(),
            group: target.group.clone(),
            version: target.version.clone(),
            resource: target.resource.clone(),
            subresource: target.subresource.clone(),
            namespace: target.namespace.clone(),
            name: target.name.clone(),
            path: target.path.clone(),
            is_resource: target.is_resource,
        };
        policy
            .authorize(&user, &attributes)
            .map_err(|why| rbac::forbidden(&attributes, &why))?;
        let request = Request::from_parts(parts, body);
        if !target.is_resource {
            return self.system(&target, &query, &request);
        }
        let kinds = self.kinds();
        let Some(kind) = kinds.find(&target.group, &target.version, &target.resource) else {
            if kinds.serves(&target.group, &target.version) {
                return Err(no_such_resource());
            }
            return Ok(system::not_found());
        };
        if !kind.namespaced && !target.namespace.is_empty() && target.resource != "namespaces" {
            return Err(no_such_resource());
        }
        let form = match Form::negotiate(request.headers(), &query) {
            Ok(form) => form,
            // What a node streams has a type of its own.
            Err(_) if !target.subresource.is_empty() => Form::JSON,
            Err(error) => return Err(error),
        };
        let mut context = Context {
            form,
            kind,
            user,
            in_process,
            headers: request.headers().clone(),
            target,
            query,
            now: self.now(),
            warnings: Vec::new(),
        };
        let mut response = self.dispatch(&mut context, request).await?;
        answer::warn(&mut response, &context.warnings);
        Ok(response)
    }

    async fn dispatch(
        &self,
        context: &mut Context,
        request: Request<Body>,
    ) -> Result<Response<Body>, ApiError> {
        if !context.target.subresource.is_empty() {
            return Box::pin(self.subresource(context, request)).await;
        }
        let verb = context.target.verb.clone();
        let one = !context.target.name.is_empty()
            && !matches!(verb.as_str(), "list" | "watch" | "deletecollection");
        let scoped = !context.kind.namespaced || !context.target.namespace.is_empty();
        let fits = match verb.as_str() {
            "create" => !one && scoped,
            "get" | "update" | "patch" | "delete" => one && scoped,
            "deletecollection" => scoped,
            _ => true,
        };
        if !fits || !context.kind.verbs.contains(&verb.as_str()) {
            return Err(ApiError::method_not_allowed());
        }
        match verb.as_str() {
            "get" => read::get(self.store(), context),
            "list" => read::list(self.store(), context),
            "watch" => watch::watch(
                self.store(),
                context,
                self.inner.settings.shutdown.clone(),
                self.inner.settings.clock,
            ),
            "create" => {
                let bytes = body::collect(request.into_body()).await?;
                let mut object = body::parse(&context.headers, &bytes, &context.kind.kind)?;
                if !context.kind.verbs.contains(&"get") {
                    body::expect(&context.kind, &mut object)?;
                    return self.review(context, &object);
                }
                let object = self.create(context, object).await?;
                Ok(context.object(StatusCode::CREATED, object))
            }
            "update" => {
                let bytes = body::collect(request.into_body()).await?;
                let object = body::parse(&context.headers, &bytes, &context.kind.kind)?;
                let object = self.replace(context, object, write::Part::Main).await?;
                Ok(context.object(StatusCode::OK, object))
            }
            "patch" if context.applies() => {
                let bytes = body::collect(request.into_body()).await?;
                let (code, object) = self.apply(context, &bytes, write::Part::Main).await?;
                Ok(context.object(code, object))
            }
            "patch" => {
                let bytes = body::collect(request.into_body()).await?;
                let object = self.patch(context, &bytes, write::Part::Main).await?;
                Ok(context.object(StatusCode::OK, object))
            }
            "delete" => {
                let bytes = body::collect(request.into_body()).await?;
                self.delete(context, &bytes).await
            }
            "deletecollection" => {
                let bytes = body::collect(request.into_body()).await?;
                self.delete_collection(context, &bytes).await
            }
            _ => Err(ApiError::method_not_allowed()),
        }
    }

    /// A kind that can only be created is a question: it is answered, and not kept.
    fn review(&self, context: &mut Context, object: &Value) -> Result<Response<Body>, ApiError> {
        let kind: &Kind = &context.kind;
        let namespace = kind.namespaced.then_some(context.target.namespace.as_str());
        let answer = reviews::answer(
            &kind.plural,
            namespace,
            object,
            &context.user,
            &self.policy(),
            self.authenticator(),
        )?;
        Ok(context.form.document(StatusCode::CREATED, &answer))
    }
}

impl<B> Service<Request<B>> for Api
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let api = self.clone();
        let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
        Box::pin(async move { Ok(api.handle(request).await) })
    }
}

/// The API, with every request coming from one user.
#[derive(Clone)]
struct As {
    api: Api,
    user: User,
}

impl<B> Service<Request<B>> for As
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        request.extensions_mut().insert(self.user.clone());
        self.api.call(request)
    }
}
