//! Which change concerns which controller.

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Namespace, Node, Pod, Service, ServiceAccount,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::runtime::watcher;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::ownership::controller_of;
use super::{
    Change, Context, Key, Queue, daemonset, deployment, endpoints, feed, job, namespace,
    replicaset, serviceaccount, statefulset,
};

/// Starts every controller and the watches that feed them.
pub fn start(tasks: &mut JoinSet<()>, context: &Context, shutdown: &CancellationToken) {
    let deployments = Queue::default();
    let replica_sets = Queue::default();
    let services = Queue::default();
    let namespaces = Queue::default();
    let jobs = Queue::default();
    let daemon_sets = Queue::default();
    let stateful_sets = Queue::default();

    macro_rules! work {
        ($queue:expr, $name:literal, $reconcile:path) => {{
            let (queue, context, shutdown) = ($queue.clone(), context.clone(), shutdown.clone());
            tasks.spawn(async move {
                let reconcile = |key| $reconcile(context.clone(), key);
                queue.work(shutdown, $name, reconcile).await;
            });
        }};
    }
    macro_rules! watch {
        ($kind:ty, $config:expr, $on:expr) => {{
            let api: Api<$kind> = Api::all(context.client.clone());
            tasks.spawn(feed(api, $config, shutdown.clone(), $on));
        }};
    }

    work!(deployments, "deployment", deployment::reconcile);
    work!(replica_sets, "replicaset", replicaset::reconcile);
    work!(jobs, "job", job::reconcile);
    work!(daemon_sets, "daemonset", daemonset::reconcile);
    work!(stateful_sets, "statefulset", statefulset::reconcile);
    work!(services, "endpoints", endpoints::reconcile);
    let ending = Queue::default();
    work!(ending, "namespace", namespace::reconcile);
    work!(namespaces, "serviceaccount", serviceaccount::reconcile);

    let any = watcher::Config::default;
    let queue = deployments.clone();
    watch!(Deployment, any(), move |change| own(&queue, &change));

    let (queue, owners) = (replica_sets.clone(), deployments.clone());
    watch!(ReplicaSet, any(), move |change: Change<'_, ReplicaSet>| {
        own(&queue, &change);
        match change {
            Change::Applied(set) | Change::Deleted(set) => {
                owner(&owners, &set.metadata, "Deployment");
            }
            Change::Resynced => owners.add_known(None),
        }
    });

    let (sets, of_sets, backends) = (replica_sets.clone(), deployments.clone(), services.clone());
    watch!(Pod, any(), move |change: Change<'_, Pod>| match change {
        Change::Applied(pod) => {
            owner(&sets, &pod.metadata, "ReplicaSet");
            backends.add_known(pod.metadata.namespace.as_deref());
        }
        Change::Deleted(pod) => {
            owner(&sets, &pod.metadata, "ReplicaSet");
            backends.add_known(pod.metadata.namespace.as_deref());
            // A Deployment that recreates waits for the last old Pod.
            of_sets.add_known(pod.metadata.namespace.as_deref());
        }
        Change::Resynced => {
            sets.add_known(None);
            of_sets.add_known(None);
            backends.add_known(None);
        }
    });

    let others = [
        ("Job", jobs.clone()),
        ("DaemonSet", daemon_sets.clone()),
        ("StatefulSet", stateful_sets.clone()),
    ];
    watch!(Pod, any(), move |change: Change<'_, Pod>| {
        for (kind, queue) in &others {
            match change {
                Change::Applied(pod) | Change::Deleted(pod) => owner(queue, &pod.metadata, kind),
                Change::Resynced => queue.add_known(None),
            }
        }
    });
    let queue = jobs;
    watch!(Job, any(), move |change| own(&queue, &change));
    let queue = stateful_sets;
    watch!(StatefulSet, any(), move |change| own(&queue, &change));
    let (queue, all) = (daemon_sets.clone(), daemon_sets);
    watch!(DaemonSet, any(), move |change| own(&queue, &change));
    watch!(Node, any(), move |_: Change<'_, Node>| all.add_known(None));

    let queue = services.clone();
    watch!(Service, any(), move |change| own(&queue, &change));
    let queue = services.clone();
    watch!(Endpoints, any(), move |change: Change<'_, Endpoints>| {
        if let Change::Deleted(endpoints) = change {
            queue.add(Key::of(endpoints));
        }
    });

    let queue = namespaces.clone();
    watch!(Namespace, any(), move |change: Change<'_, Namespace>| {
        own(&queue, &change);
        own(&ending, &change);
    });
    let queue = namespaces.clone();
    let named = |name: &str| watcher::Config::default().fields(&format!("metadata.name={name}"));
    watch!(
        ServiceAccount,
        named(serviceaccount::ACCOUNT),
        move |change: Change<'_, ServiceAccount>| if let Change::Deleted(account) = change {
            add_namespace(&queue, &account.metadata);
        }
    );
    let queue = namespaces;
    watch!(
        ConfigMap,
        named(serviceaccount::ROOT_CA),
        move |change: Change<'_, ConfigMap>| if let Change::Applied(map) | Change::Deleted(map) =
            change
        {
            add_namespace(&queue, &map.metadata);
        }
    );
}

fn own<K: kube::Resource>(queue: &Queue, change: &Change<'_, K>) {
    match change {
        Change::Applied(object) => queue.add_own(Key::of(*object)),
        Change::Deleted(object) => queue.forget(Key::of(*object)),
        Change::Resynced => queue.add_known(None),
    }
}

/// Tells the owner of a kind; for an object without one, everybody in its namespace who might adopt it.
fn owner(queue: &Queue, meta: &ObjectMeta, kind: &str) {
    let namespace = meta.namespace.as_deref();
    match controller_of(meta) {
        Some(owner) if owner.kind == kind => queue.add(Key {
            namespace: namespace.unwrap_or_default().to_owned(),
            name: owner.name.clone(),
        }),
        Some(_) => {}
        None => queue.add_known(namespace),
    }
}

fn add_namespace(queue: &Queue, meta: &ObjectMeta) {
    queue.add(Key {
        namespace: String::new(),
        name: meta.namespace.clone().unwrap_or_default(),
    });
}
