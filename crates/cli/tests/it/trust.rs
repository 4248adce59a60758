//! Members that know callers by tokens of their host: what breaks nothing, what opens nothing, and how trust moves.

use std::{
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jiff::Timestamp;
use kah_api::{config::JwtSecret, time::GoDuration};
use kah_iam::{SigningKey, SigningKeys, SystemClock, TokenType, Tokens};
use kah_testkit::fleet::{Fleet, Guard, until};
use kah_testkit::http_client::get;
use rustix::process::Signal;
use serde_json::Value;

use crate::fleet::{
    OURS, configuration, edit, kah, log_in, ok, server_pod, start, start_real, through_host, token,
};

fn status(fleet: &Fleet, cluster: &str, token: &str) -> u16 {
    let url = format!("{}/clusters/{cluster}/version", fleet.facts().address);
    get(&url, token).unwrap().status
}

fn shown(fleet: &Fleet) -> Value {
    let ran = kah(fleet, &["trust", "show", "-o", "json"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    serde_json::from_str(&ran.stdout).unwrap()
}

/// Trust and what was told, of one member.
fn row(fleet: &Fleet, cluster: &str) -> (String, String) {
    let shown = shown(fleet);
    let rows = shown["members"].as_array().unwrap();
    let row = rows.iter().find(|row| row["cluster"] == cluster).unwrap();
    let text = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
    (text("trust"), text("told"))
}

fn secret(fleet: &Fleet, cluster: &str) -> String {
    let text = configuration(&fleet.kubectl(cluster).unwrap());
    let line = text.lines().find(|line| line.contains("jwtSecret:"));
    line.unwrap().trim().to_owned()
}

fn restart(fleet: &Fleet, cluster: &str) {
    let kubectl = fleet.kubectl(cluster).unwrap();
    for words in [
        ["rollout", "restart", "deploy", "ks-apiserver"].as_slice(),
        &[
            "rollout",
            "status",
            "deploy",
            "ks-apiserver",
            "--timeout=60s",
        ],
    ] {
        ok(&kubectl, &[OURS.as_slice(), words].concat());
    }
}

/// Askers that go on while something else happens; none may fail.
struct Load {
    end: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    failed: Arc<Mutex<Vec<String>>>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Load {
    fn start(fleet: &Fleet, clusters: &[&str], token: &str) -> Self {
        let mut load = Load {
            end: Arc::default(),
            asked: Arc::default(),
            failed: Arc::default(),
            threads: Vec::new(),
        };
        for number in 0..4 {
            let cluster = clusters[number % clusters.len()];
            let url = format!(
                "{}/clusters/{cluster}/api/v1/namespaces",
                fleet.facts().address
            );
            let token = token.to_owned();
            let (end, asked, failed) = (load.end.clone(), load.asked.clone(), load.failed.clone());
            load.threads.push(std::thread::spawn(move || {
                while !end.load(Ordering::SeqCst) {
                    match get(&url, &token) {
                        Ok(answer) if answer.status == 200 => {}
                        other => failed.lock().unwrap().push(format!("{other:?}")),
                    }
                    asked.fetch_add(1, Ordering::SeqCst);
                }
            }));
        }
        load
    }

    fn more(&self, count: usize) {
        let wanted = self.asked.load(Ordering::SeqCst) + count;
        until(Duration::from_secs(60), "the load goes on", || {
            (self.asked.load(Ordering::SeqCst) >= wanted).then_some(())
        })
        .unwrap();
    }

    fn end(self) -> usize {
        self.end.store(true, Ordering::SeqCst);
        for thread in self.threads {
            thread.join().unwrap();
        }
        let failed = self.failed.lock().unwrap();
        assert!(failed.is_empty(), "{}: {:?}", failed.len(), failed.first());
        self.asked.load(Ordering::SeqCst)
    }
}

#[test]
fn edits_that_took_access_away_before_take_none_now() {
    let fleet = start(&["--members", "2"]);
    log_in(&fleet);
    let all = ["host", "member-1", "member-2"].map(|cluster| secret(&fleet, cluster));
    assert!(all[0] != all[1] && all[1] != all[2] && all[0] != all[2]);
    for cluster in ["member-1", "member-2"] {
        let told = ("federated".to_owned(), "current".to_owned());
        assert_eq!(row(&fleet, cluster), told);
    }
    let token = token(&fleet);
    let member = fleet.kubectl("member-1").unwrap();
    edit(&member, "accessTokenMaxAge: 0", "accessTokenMaxAge: 2h");
    edit(
        &member,
        &all[1].replace('"', "\\\""),
        "jwtSecret: of nobody",
    );
    let through = through_host(&fleet, "member-1", &token);
    let pods = ["get", "pods", "-n", "kubesphere-system", "-o", "name"];
    // Read live, and at a new start.
    for _ in 0..10 {
        assert!(ok(&through, &pods).contains("pod/ks-apiserver-"));
    }
    restart(&fleet, "member-1");
    until(Duration::from_secs(10), "the new Pod answers", || {
        (status(&fleet, "member-1", &token) == 200).then_some(())
    })
    .unwrap();
    assert!(ok(&through, &pods).contains("pod/ks-apiserver-"));
    let doctor = kah(&fleet, &["doctor"]);
    assert_eq!(doctor.code, 0, "{doctor:?}");
    let restore = kah(&fleet, &["restore-access", "member-1", "--dry-run"]);
    assert!(restore.stdout.contains("nothing to do"), "{restore:?}");

    // What the host tells a member comes back by itself where somebody deletes it, and at once by a restore.
    ok(&member, &[OURS[0], OURS[1], "delete", "cm", "hub-trust"]);
    until(Duration::from_secs(40), "the keys are told again", || {
        let get = [OURS[0], OURS[1], "get", "cm", "hub-trust"];
        (member.run(&get).code == 0).then_some(())
    })
    .unwrap();
    until(Duration::from_secs(10), "the member accepts", || {
        (status(&fleet, "member-1", &token) == 200).then_some(())
    })
    .unwrap();

    leaves_and_joins(&fleet, &token);
}

/// Leaving takes the keys back, and joining gives them, whatever secret the member has.
fn leaves_and_joins(fleet: &Fleet, token: &str) {
    let member = fleet.kubectl("member-1").unwrap();
    let left = kah(fleet, &["cluster", "leave", "member-1", "--yes"]);
    assert_eq!(left.code, 0, "{left:?}");
    let get = [OURS[0], OURS[1], "get", "cm", "hub-trust"];
    assert_eq!(member.run(&get).code, 1);
    let path = fleet.facts().clusters[1].kubeconfig.display().to_string();
    let join = ["cluster", "join", "again", "--kubeconfig", &path];
    let looked = kah(fleet, &[join.as_slice(), &["--dry-run"]].concat());
    assert_eq!(looked.code, 0, "{looked:?}");
    assert_eq!(member.run(&get).code, 1, "a dry run writes nothing");
    let joined = kah(fleet, &join);
    assert_eq!(joined.code, 0, "{joined:?}");
    assert!(joined.stdout.contains("with federated trust"), "{joined:?}");
    until(Duration::from_secs(10), "it is known", || {
        (status(fleet, "again", token) == 200).then_some(())
    })
    .unwrap();
}

#[test]
fn trust_moves_and_keys_change_under_load() {
    let fleet = start(&["--members", "2"]);
    log_in(&fleet);
    under_load(
        &fleet,
        &["member-1", "member-2"],
        "authentication.jwtSecret",
    );
    j1_j2_j5_what_the_member_refuses(&fleet);
}

#[test]
fn trust_moves_and_keys_change_on_a_real_control_plane() {
    let Some(fleet) = start_real(1) else { return };
    log_in(&fleet);
    assert_eq!(row(&fleet, "member-1").0, "shared-secret");
    let moved = kah(&fleet, &["cluster", "trust", "member-1", "federated"]);
    assert_eq!(moved.code, 0, "{moved:?}");
    under_load(&fleet, &["member-1"], "");
}

/// Back to the shared secret, to federated again, and a new key, with a watch open all the time.
fn under_load(fleet: &Fleet, members: &[&str], changes: &str) {
    let token = token(fleet);
    let said = fleet.folder().join("watched");
    let mut watching = through_host(fleet, "member-1", &token).command();
    watching
        .args(["get", "configmaps", "--watch", "-o", "name"])
        .stdin(Stdio::null())
        .stdout(std::fs::File::create(&said).unwrap())
        .stderr(Stdio::null());
    let mut watching = Guard::spawn(&mut watching).unwrap();
    let load = Load::start(fleet, members, &token);
    load.more(50);
    let unasked = kah(fleet, &["cluster", "trust", "member-1", "shared-secret"]);
    assert_eq!(unasked.code, 1, "{unasked:?}");
    assert!(unasked.stderr.contains("Add --yes."), "{unasked:?}");
    assert_eq!(row(fleet, "member-1").0, "federated");
    for (word, told) in [("shared-secret", ""), ("federated", "current")] {
        let arguments = ["cluster", "trust", "member-1", word, "--yes"];
        let moved = kah(fleet, &arguments);
        assert_eq!(moved.code, 0, "{moved:?}");
        assert!(
            moved.stdout.contains(&format!("by {word} trust now")),
            "{moved:?}"
        );
        assert!(
            word == "federated" || moved.stderr.contains(changes),
            "{moved:?}"
        );
        assert_eq!(row(fleet, "member-1"), (word.to_owned(), told.to_owned()));
        load.more(50);
        let again = kah(fleet, &arguments);
        assert!(again.stdout.contains("already"), "{again:?}");
    }
    let old = shown(fleet)["keys"][0]["id"].as_str().unwrap().to_owned();
    let rotated = kah(fleet, &["trust", "rotate"]);
    assert_eq!(rotated.code, 0, "{rotated:?}");
    let next = rotated.stdout.trim().to_owned();
    assert!(!next.is_empty() && next != old);
    let again = kah(fleet, &["trust", "rotate"]);
    assert_eq!(again.code, 1, "{again:?}");
    assert!(again.stderr.contains("under way"), "{again:?}");
    until(Duration::from_secs(60), "the new key signs", || {
        let keys = shown(fleet)["keys"].as_array().unwrap().clone();
        let active = keys.iter().find(|key| key["state"] == "active").unwrap();
        (active["id"] == next.as_str()).then_some(())
    })
    .unwrap();
    load.more(50);
    let asked = load.end();
    assert!(asked >= 200, "{asked}");
    println!("{asked} requests, none failed");
    // The watch that was opened before all this still tells.
    assert!(watching.child().try_wait().unwrap().is_none());
    let member = fleet.kubectl("member-1").unwrap();
    ok(&member, &["create", "configmap", "told-at-last"]);
    until(Duration::from_secs(10), "the watch tells", || {
        let text = std::fs::read_to_string(&said).unwrap();
        text.contains("told-at-last").then_some(())
    })
    .unwrap();
}

/// Tokens of every wrong kind, straight at the ks-apiserver of a federated member and at the host.
fn j1_j2_j5_what_the_member_refuses(fleet: &Fleet) {
    let kubectl = fleet.kubectl("member-2").unwrap();
    let pod = server_pod(&kubectl);
    let address = ok(
        &kubectl,
        &[
            OURS[0],
            OURS[1],
            "get",
            "pod",
            &pod,
            "-o",
            "jsonpath={.status.podIP}",
        ],
    );
    let uid = |cluster: &str| {
        let kubectl = fleet.kubectl(cluster).unwrap();
        ok(
            &kubectl,
            &["get", "ns", "kube-system", "-o", "jsonpath={.metadata.uid}"],
        )
    };
    let (audience, other) = (uid("member-2"), uid("member-1"));
    let issuer = kah_iam::federated::issuer(&uid("host"));
    let host = fleet.kubectl("host").unwrap();
    let stored = ok(
        &host,
        &[
            OURS[0],
            OURS[1],
            "get",
            "secret",
            "hub-signing-keys",
            "-o",
            "json",
        ],
    );
    let stored: k8s_openapi::api::core::v1::Secret = serde_json::from_str(&stored).unwrap();
    let keys = SigningKeys::read(&stored.data.unwrap()).unwrap();
    let key = keys.active().unwrap().unwrap();
    let now = Timestamp::now().as_second();
    let ask = |token: &str| {
        let direct = get(&format!("http://{address}:9090/version"), token).unwrap();
        let host = get(&format!("{}/version", fleet.facts().address), token).unwrap();
        // The host's own API takes none of them, the good one neither.
        assert_eq!(host.status, 401, "{host:?}");
        (direct.status, direct.json()["message"].to_string())
    };
    assert_eq!(ask(&key.mint(&issuer, &audience, "admin", now)).0, 200);

    let stranger = SigningKey::generate(now).unwrap();
    let same_name = SigningKey::from_pem(key.kid(), &stranger.to_pem().unwrap()).unwrap();
    let encode = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
    let good = key.mint(&issuer, &audience, "admin", now);
    let payload = good.split('.').nth(1).unwrap();
    let signature = good.split('.').nth(2).unwrap();
    let with = |header: &str| format!("{}.{payload}.{signature}", encode(header));
    let kid = key.kid();
    // HS256 with what is public as the secret.
    let public = keys.records().last().unwrap().public["x"]
        .as_str()
        .unwrap()
        .to_owned();
    let confused = |secret: String, kind: TokenType| {
        let tokens = Tokens::new(
            &JwtSecret::new(secret),
            &issuer,
            false,
            GoDuration::from_secs(10),
            Arc::new(SystemClock::default()),
        );
        tokens.issue(
            "admin",
            kind,
            &Default::default(),
            GoDuration::from_secs(60),
        )
    };
    let own = secret(fleet, "member-2");
    let own = own
        .trim_start_matches("jwtSecret:")
        .trim()
        .trim_matches('"')
        .to_owned();
    for (what, token, words) in [
        (
            "T1 for another member",
            key.mint(&issuer, &other, "admin", now),
            "wrong aud",
        ),
        (
            "of another host",
            key.mint("kubeaihub:x", &audience, "admin", now),
            "wrong iss",
        ),
        (
            "ended",
            key.mint(&issuer, &audience, "admin", now - 90),
            "expired",
        ),
        (
            "of the future",
            key.mint(&issuer, &audience, "admin", now + 90),
            "before issued",
        ),
        (
            "nobody's",
            key.mint(&issuer, &audience, "", now),
            "username",
        ),
        (
            "J5 unknown key",
            stranger.mint(&issuer, &audience, "admin", now),
            "not trusted here",
        ),
        (
            "same key id",
            same_name.mint(&issuer, &audience, "admin", now),
            "signature is invalid",
        ),
        ("J1 none", with(r#"{"alg":"none"}"#), ""),
        ("J1 none in letters", with(r#"{"alg":"NONE"}"#), ""),
        (
            "J1 twice",
            with(&format!(r#"{{"alg":"EdDSA","alg":"none","kid":"{kid}"}}"#)),
            "",
        ),
        (
            "J1 own key",
            with(&format!(
                r#"{{"alg":"EdDSA","kid":"{kid}","jwk":{{"kty":"OKP"}}}}"#
            )),
            "",
        ),
        (
            "J1 crit",
            with(&format!(r#"{{"alg":"EdDSA","kid":"{kid}","crit":["x"]}}"#)),
            "",
        ),
        (
            "J1 path",
            with(r#"{"alg":"EdDSA","kid":"../../etc/passwd"}"#),
            "not trusted here",
        ),
        (
            "J1 HS with the public key",
            confused(public, TokenType::Access),
            "signature is invalid",
        ),
        (
            "J2 refresh of its own",
            confused(own.clone(), TokenType::Refresh),
            "ivalid token type",
        ),
        (
            "J2 id of its own",
            confused(own, TokenType::Id),
            "ivalid token type",
        ),
    ] {
        let (status, message) = ask(&token);
        assert_eq!(status, 401, "{what}: {message}");
        assert!(message.contains(words), "{what}: {message}");
    }
    // A flood of unknown keys: each is refused as fast, and nothing is fetched for it.
    for number in 0..50 {
        let stranger = SigningKey::generate(now + number).unwrap();
        let token = stranger.mint(&issuer, &audience, "admin", now);
        assert_eq!(ask(&token).0, 401);
    }
    assert_eq!(ask(&good).0, 200);
    d1_no_private_key_is_told(fleet, &stored_pems(&host));
}

/// The lines of all private keys that are kept.
fn stored_pems(host: &kah_testkit::kubectl::Kubectl) -> Vec<String> {
    let line = "kubectl -n kubesphere-system get secret hub-signing-keys -o go-template='{{range $k, $v := .data}}{{$v | base64decode}}{{end}}'";
    let ran = host.shell(line, std::path::Path::new("/"));
    let lines = ran
        .stdout
        .lines()
        .filter(|line| line.len() > 40 && !line.contains('{'));
    let found: Vec<String> = lines.map(str::to_owned).collect();
    assert!(!found.is_empty(), "{ran:?}");
    found
}

fn d1_no_private_key_is_told(fleet: &Fleet, pems: &[String]) {
    let host = fleet.kubectl("host").unwrap();
    let pod = server_pod(&host);
    let told = [
        ok(&host, &[OURS[0], OURS[1], "logs", &pod]),
        shown(fleet).to_string(),
        ok(
            &fleet.kubectl("member-2").unwrap(),
            &["get", "cm", "-A", "-o", "yaml"],
        ),
        ok(
            &host,
            &[
                "get",
                "clusters.cluster.kubesphere.io,events,cm",
                "-A",
                "-o",
                "yaml",
            ],
        ),
    ];
    for pem in pems {
        assert!(told.iter().all(|text| !text.contains(pem)));
    }
}

#[test]
fn a_folder_that_exists_keeps_its_trust() {
    let mut fleet = start(&["--members", "1", "--trust", "shared-secret"]);
    log_in(&fleet);
    assert_eq!(row(&fleet, "member-1").0, "shared-secret");
    assert_eq!(secret(&fleet, "member-1"), secret(&fleet, "host"));
    fleet.restart(Signal::INT, &["--members", "2"]).unwrap();
    log_in(&fleet);
    assert_eq!(row(&fleet, "member-1").0, "shared-secret");
    assert_eq!(row(&fleet, "member-2").0, "federated");
    let token = token(&fleet);
    for cluster in ["member-1", "member-2"] {
        assert_eq!(status(&fleet, cluster, &token), 200, "{cluster}");
    }
    // To be broken, a federated member has to share a secret first.
    let broken = ["--members", "2", "--break", "member-2=token-cache"];
    fleet.restart(Signal::INT, &broken).unwrap();
    let said = std::fs::read_to_string(fleet.folder().join("up.err")).unwrap();
    assert!(
        said.contains("Put member-2 into shared-secret trust"),
        "{said}"
    );
    let token = crate::fleet::token(&fleet);
    let refused = until(Duration::from_secs(20), "member-2 refuses", || {
        let url = format!("{}/clusters/member-2/version", fleet.facts().address);
        Some(get(&url, &token).unwrap()).filter(|answer| answer.status == 401)
    })
    .unwrap();
    assert_eq!(
        refused.header("x-kubeaihub-member-refusal"),
        "TokenNotInCache"
    );
    assert_eq!(status(&fleet, "member-1", &token), 200);
}
