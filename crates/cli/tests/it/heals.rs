//! Lost access comes back by itself where the Cluster says `autoRestore: true`: each cause that takes nothing but what the host has, provoked for real.

use std::time::{Duration, Instant};

use base64::{Engine, engine::general_purpose::STANDARD};
use kah_testkit::{
    fleet::{Fleet, until},
    http_client::get,
    kubectl::Kubectl,
    network::{self, Place},
};
use serde_json::{Value, json};

use crate::{
    doctor::{becomes, short_lived},
    fleet::{OURS, edit, kah, log_in, ok, start, start_real, token, without_controllers},
    original::setting,
    restore::{connections_of_a_real_member_are_restored, each_is_restored_by_hand},
};

/// From the naming of a fault to access that is proven.
const REPAIRED: Duration = Duration::from_secs(20);
/// For a fault to be named. A kubelet brings a new configuration when it likes.
const NAMED: Duration = Duration::from_secs(100);
/// For one that somebody else may mend first.
const TRIES: usize = 5;

/// A member of a fleet whose controllers run.
pub struct Patient<'a> {
    pub fleet: &'a Fleet,
    pub name: &'a str,
    pub host: Kubectl,
    /// Of the member.
    pub kubectl: Kubectl,
}

/// How one fault went.
#[derive(Debug, PartialEq, Eq)]
enum Went {
    Repaired,
    /// Propagation brought the user before anybody was asked to.
    Mended,
}

impl<'a> Patient<'a> {
    pub fn new(fleet: &'a Fleet, name: &'a str) -> Self {
        Self {
            fleet,
            name,
            host: fleet.kubectl("host").unwrap(),
            kubectl: fleet.kubectl(name).unwrap(),
        }
    }
}

impl Patient<'_> {
    /// Patches the Cluster.
    fn patch(&self, patch: &Value) {
        let cluster = "clusters.cluster.kubesphere.io";
        let patch = patch.to_string();
        let arguments = ["patch", cluster, self.name, "--type=merge", "-p", &patch];
        ok(&self.host, &arguments);
    }

    /// Stores this kubeconfig for the member.
    pub fn store(&self, kubeconfig: &str) {
        let text = STANDARD.encode(kubeconfig);
        self.patch(&json!({"spec": {"connection": {"kubeconfig": text}}}));
    }

    /// `True/Accepted`
    fn access(&self) -> String {
        let path = r#"jsonpath={range .status.conditions[?(@.type=="HostAccess")]}{.status}/{.reason}{end}"#;
        let cluster = "clusters.cluster.kubesphere.io";
        ok(&self.host, &["get", cluster, self.name, "-o", path])
    }

    /// Reasons and messages of the Events about the Cluster, oldest first.
    fn events(&self) -> Vec<(String, String)> {
        let only = format!(
            "involvedObject.kind=Cluster,involvedObject.name={}",
            self.name
        );
        let get = ["get", "events", "--field-selector", &only, "-o", "json"];
        let list: Value = serde_json::from_str(&ok(&self.host, &get)).unwrap();
        let text = |event: &Value, pointer: &str| {
            let found = event.pointer(pointer).and_then(Value::as_str);
            found.unwrap_or_default().to_owned()
        };
        let mut events = list["items"].as_array().unwrap().clone();
        events.sort_by_key(|event| {
            let version = text(event, "/metadata/resourceVersion");
            version.parse::<u64>().unwrap()
        });
        let told = |event: &Value| (text(event, "/reason"), text(event, "/message"));
        events.iter().map(told).collect()
    }

    /// Whether an Event of this reason is there, and how many came before it.
    fn told(&self, reason: &str) -> Option<usize> {
        self.events().iter().position(|(told, _)| told == reason)
    }

    /// Provokes a fault, sees it named, asks for what is named to be repaired, and sees that done. `meanwhile` is what the member does by itself.
    pub fn heals(&self, code: &str, provoke: &dyn Fn(), meanwhile: &mut dyn FnMut()) {
        for _ in 0..TRIES {
            if self.went(code, provoke, meanwhile) == Went::Repaired {
                return;
            }
        }
        panic!("{}: {code} was mended otherwise each time", self.name);
    }

    fn went(&self, code: &str, provoke: &dyn Fn(), meanwhile: &mut dyn FnMut()) -> Went {
        let name = self.name;
        let well = until(NAMED, "access is well", || {
            (self.access() == "True/Accepted").then_some(())
        });
        assert!(well.is_ok(), "{name}, before {code}: {}", self.access());
        // Tries of earlier faults would keep this one waiting: there are three within an hour.
        self.patch(&json!({
            "metadata": {"annotations": {"hub.kubeaihub.io/auto-restore": null}},
            "spec": {"autoRestore": false, "provider": "before"},
        }));
        let only = format!("involvedObject.name={name}");
        ok(&self.host, &["delete", "events", "--field-selector", &only]);
        provoke();
        // What callers do not feel is looked for every minute, and when somebody changes the Cluster.
        self.patch(&json!({"spec": {"provider": code}}));
        let since = Instant::now();
        let mends_itself = code.starts_with("User");
        let named = until(NAMED, "the fault is named", || {
            let mended = mends_itself && since.elapsed() > REPAIRED;
            (mended || self.told(code).is_some()).then_some(Instant::now())
        });
        let named = named.unwrap_or_else(|_| panic!("{name}: {code}: {:?}", self.events()));
        if self.told(code).is_none() {
            return Went::Mended;
        }
        let (begins, ends) = if code == "CredentialExpiring" {
            (None, "CredentialRenewed")
        } else {
            (Some("RestoringAccess"), "AccessRestored")
        };
        assert_eq!(begins.and_then(|reason| self.told(reason)), None);
        self.patch(&json!({"spec": {"autoRestore": true}}));
        let mut mended = false;
        let restored = until(REPAIRED * 3, "it is repaired", || {
            meanwhile();
            if self.access() != "True/Accepted" {
                return None;
            }
            let events = self.events();
            let end = events.iter().find(|(reason, _)| reason == ends);
            let none = || {
                !events
                    .iter()
                    .any(|(reason, _)| Some(reason.as_str()) == begins)
            };
            mended =
                mends_itself && end.map_or_else(none, |(_, told)| told.contains("there again"));
            (mended || end.is_some()).then_some(Instant::now())
        });
        let events = self.events();
        let restored = restored.unwrap_or_else(|_| panic!("{name}: {code}: {events:?}"));
        if mended {
            return Went::Mended;
        }
        let took = restored - named;
        println!("{name}: {code} repaired by itself {took:?} after it was named");
        assert!(took < REPAIRED, "{name}: {code}: {took:?}: {events:?}");
        let at = |reason: &str| events.iter().position(|(told, _)| told == reason).unwrap();
        if let Some(begins) = begins {
            assert!(at(code) < at(begins) && at(begins) < at(ends), "{events:?}");
            assert!(events[at(begins)].1.contains(code), "{events:?}");
        }
        assert!(at(code) < at(ends), "{events:?}");
        let failed = ["RestoreFailed", "CredentialNotRenewed"];
        assert!(
            !events
                .iter()
                .any(|(reason, _)| failed.contains(&reason.as_str())),
            "{events:?}"
        );
        println!("  {}", events[at(ends)].1);

        // Nothing but an answer of the member proves it.
        let address = &self.fleet.facts().address;
        let path = format!("{address}/clusters/{name}/api/v1/namespaces/kubesphere-system");
        let answer = get(&path, &token(self.fleet)).unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        becomes(self.fleet, name, &[]);
        Went::Repaired
    }

    /// A member of ours starts anew, so that what was written is read.
    fn restart(&self) {
        let restart = ["rollout", "restart", "deploy", "ks-apiserver"];
        ok(&self.kubectl, &[OURS.as_slice(), &restart].concat());
    }
}

/// Each code that needs nobody, on a member of ours by the shared secret.
fn each_heals(fleet: &Fleet) {
    log_in(fleet);
    let name = "member-1";
    let patient = Patient::new(fleet, name);
    let member = &patient.kubectl;
    let reads_it_late = fleet.real_plane(name).is_some();
    let secret = setting(member, "jwtSecret");
    let edited = |from: &str, to: &str| {
        edit(member, from, to);
        if reads_it_late {
            patient.restart();
        }
    };
    let user = "users.iam.kubesphere.io";
    let cases: [(&str, &dyn Fn()); 7] = [
        // The rest is done with the credential that the member issues then.
        ("CredentialExpiring", &|| {
            patient.store(&short_lived(fleet, name, 10));
        }),
        ("TokenNotInCache", &|| {
            edited("accessTokenMaxAge: 0", "accessTokenMaxAge: 2h");
        }),
        ("SignatureInvalid", &|| {
            edited(&secret, "another one than the host's");
        }),
        ("WrongRole", &|| {
            edit(member, "clusterRole: member", "clusterRole: none");
        }),
        ("UserDisabled", &|| {
            let disabled = r#"{"status":{"state":"Disabled"}}"#;
            let patch = ["patch", user, "admin", "--type=merge", "-p", disabled];
            ok(member, &patch);
        }),
        ("UserMissing", &|| {
            let binding = "globalrolebindings.iam.kubesphere.io";
            for kind in [binding, user] {
                ok(member, &["delete", kind, "admin", "--ignore-not-found"]);
            }
        }),
        ("MemberNotReady", &|| {
            let scale = ["scale", "deploy", "ks-apiserver", "--replicas=0"];
            ok(member, &[OURS.as_slice(), &scale].concat());
        }),
    ];
    for (code, provoke) in cases {
        patient.heals(code, provoke, &mut || {});
    }
    let cluster = ["get", "clusters.cluster.kubesphere.io", name, "-o"];
    let path = "jsonpath={.spec.connection.kubeconfig}";
    let stored = ok(&patient.host, &[cluster.as_slice(), &[path]].concat());
    let stored = String::from_utf8(STANDARD.decode(stored.trim()).unwrap()).unwrap();
    assert!(
        stored.contains("token") && !stored.contains("client-key-data"),
        "the credential is one that the member has issued"
    );
}

#[test]
fn each_cause_that_needs_nobody_heals_by_itself() {
    let fleet = start(&["--members", "1", "--trust", "shared-secret"]);
    each_heals(&fleet);
    // A federated member with another role refuses the keys of the host, and what is told is its role.
    let moved = kah(&fleet, &["cluster", "trust", "member-1", "federated"]);
    assert_eq!(moved.code, 0, "{moved:?}");
    let patient = Patient::new(&fleet, "member-1");
    let role = || {
        edit(&patient.kubectl, "clusterRole: member", "clusterRole: none");
    };
    patient.heals("WrongRole", &role, &mut || {});
}

#[test]
fn each_cause_is_repaired_on_real_control_planes() {
    if kah_testkit::plane::assets().is_none() {
        println!("no real control plane: KUBEBUILDER_ASSETS is not set");
        return;
    }
    let name = "heals::each_cause_is_repaired_on_real_control_planes";
    match network::own(name).unwrap() {
        Place::Done => return,
        Place::Inside => {}
        Place::Unavailable(why) => {
            println!("no network of its own, so by the endpoint of ks-apiserver ({why})");
        }
    }
    let fleet = start_real(1).unwrap();
    each_heals(&fleet);
    without_controllers(&fleet);
    connections_of_a_real_member_are_restored(&fleet);
    each_is_restored_by_hand(&fleet);
}
