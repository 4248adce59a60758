//! Who may hold a tunnel, and for what.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use http_body_util::BodyExt;
use kah_cluster::{
    AccessCode,
    agent::{Credentials, Settings, Store, Stored, TunnelError, check},
    enrol::GENERATION,
    tunnel::{
        Link, PATH, TunnelLimits,
        authority::{
            AgentIdentity, Identity, SERVER_NAME, TunnelAuthority, certifies, client_config,
            expires,
        },
    },
};
use kah_net::{
    Address,
    tunnel::{
        ConnectSettings, Proxies, Session, SessionLimits, Side, connect, read_frame, session,
        write_frame,
    },
};
use serde_json::{Value, json};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Front, InMemory, Replica, agent, authority, clock, dialled, held, now, settings, start,
};
use crate::{
    get, hop,
    member::{Member, answer, stream},
    until,
};

async fn server() -> Member {
    Member::start(None, |_| answer(200, "text/plain", "here"))
        .await
        .unwrap()
}

/// What the hub says to an agent with these credentials.
async fn checked(front: &Front, pin: &str, store: &InMemory) -> Result<(), TunnelError> {
    let stop = CancellationToken::new();
    let nowhere = "http://127.0.0.1:1";
    check(&settings(&front.url, pin, store, nowhere, nowhere, &stop)).await
}

#[tokio::test]
async fn t2_an_agent_serves_its_own_cluster_and_no_other() {
    let (a, b) = (server().await, server().await);
    let (authority, front) = (authority(), Front::new().await);
    let clusters = vec![dialled("a", "uid-a"), dialled("b", "uid-b")];
    let replica = Replica::new(TunnelLimits::default(), clusters).serving(&authority);
    let replica = front.answers(replica);
    let _agent = agent(&front, &authority, ("a", "uid-a"), &a, &a, 1);
    held(&replica, "uid-a", 1).await;
    let of_b = replica.registry.get("b").unwrap();
    let error = of_b.forward(get(), hop("/x")).await.unwrap_err();
    assert_eq!(error.code(), Some(AccessCode::MemberUnreachable));
    let of_a = replica.registry.get("a").unwrap();
    of_a.forward(get(), hop("/x")).await.unwrap();
    assert_eq!((a.seen().len(), b.seen().len()), (1, 0));

    // The name of one with the UID of the other, and names that are no cluster's.
    for (name, uid) in [("b", "uid-a"), ("a", "uid-b"), ("c", "uid-a"), ("c", "x")] {
        let store = InMemory::issued(&authority, name, uid, now());
        let error = checked(&front, authority.pin(), &store).await.unwrap_err();
        assert!(matches!(error, TunnelError::Refused { .. }), "{error:?}");
        assert!(error.is_refusal());
    }
    assert_eq!(replica.tunnels().counters().refused(), 4);
    assert_eq!(replica.tunnels().count(), 1);
}

#[tokio::test]
async fn t6_a_cluster_that_was_created_anew_is_another() {
    let ks = server().await;
    let (authority, front) = (authority(), Front::new().await);
    let replica = Replica::new(TunnelLimits::default(), vec![dialled("m", "old")]);
    let replica = front.answers(replica.serving(&authority));
    let _agent = agent(&front, &authority, ("m", "old"), &ks, &ks, 1);
    held(&replica, "old", 1).await;
    let old = replica.registry.get("m").unwrap();
    replica.registry.apply(&dialled("m", "new"));
    held(&replica, "old", 0).await;
    old.forward(get(), hop("/x")).await.unwrap_err();
    let new = replica.registry.get("m").unwrap();
    let error = new.forward(get(), hop("/x")).await.unwrap_err();
    assert_eq!(error.code(), Some(AccessCode::MemberUnreachable));
    // The agent of old comes back and is refused.
    until("it is refused", || {
        replica.tunnels().counters().refused() > 0
    })
    .await;
    let store = InMemory::issued(&authority, "m", "old", now());
    let error = checked(&front, authority.pin(), &store).await.unwrap_err();
    let words = kah_cluster::with_causes(&error);
    assert!(words.contains("m has left this hub since"), "{words}");
    assert_eq!(replica.tunnels().count(), 0);
    // One that enrolled since is let in.
    let _agent = agent(&front, &authority, ("m", "new"), &ks, &ks, 1);
    held(&replica, "new", 1).await;
    new.forward(get(), hop("/x")).await.unwrap();
    replica.registry.delete(&dialled("m", "new"));
    held(&replica, "new", 0).await;
}

/// Somebody has taken an agent's certificate with its key. The cluster enrols anew, and stays in the fleet.
#[tokio::test]
async fn t2_a_stolen_certificate_ends_when_its_cluster_enrols_anew() {
    let (authority, front) = (authority(), Front::new().await);
    let replica = Replica::new(TunnelLimits::default(), vec![dialled("m", "1")]);
    let replica = front.answers(replica.serving(&authority));
    let stolen = InMemory::issued(&authority, "m", "1", now());
    let (word, thief) = raw(&front, &authority, &stolen).await;
    assert_eq!(word, json!("yes"));
    held(&replica, "1", 1).await;

    // The host's other replica has enrolled it, and this one has not heard of that yet.
    let anew = AgentIdentity {
        generation: 2,
        ..AgentIdentity::first("m", "1")
    };
    let store = InMemory::issued_to(&authority, &anew, now());
    let (word, session) = raw(&front, &authority, &store).await;
    assert_eq!(word, json!("yes"));
    held(&replica, "1", 2).await;

    // Now it has: what the thief holds ends, and nothing else.
    let mut object = dialled("m", "1");
    let annotations = object.metadata.annotations.get_or_insert_default();
    annotations.insert(GENERATION.to_owned(), "2".to_owned());
    replica.registry.apply(&object);
    let gone = tokio::time::timeout(Duration::from_secs(10), thief.closed());
    gone.await.unwrap();
    held(&replica, "1", 1).await;
    assert!(!session.is_closed());
    for before in [0, 1] {
        let generation = AgentIdentity {
            generation: before,
            ..anew.clone()
        };
        let store = InMemory::issued_to(&authority, &generation, now());
        let error = checked(&front, authority.pin(), &store).await.unwrap_err();
        assert!(error.is_refusal(), "{error:?}");
        let words = kah_cluster::with_causes(&error);
        assert!(words.contains("m has enrolled anew since"), "{words}");
    }
    // What is renewed is of the same generation: it can neither be won nor lost by renewing.
    let key = kah_cluster::tunnel::authority::private_key().unwrap();
    let csr = kah_cluster::tunnel::authority::request_certificate(&key).unwrap();
    let answer = ask(&session, json!({"renew": {"csr": csr}})).await;
    let renewed = certifies(answer["certificate"].as_str().unwrap(), &key);
    assert_eq!(renewed, Some(Identity::Agent(anew)));
    // Also where a whole list is taken as the truth, as after a watch was cut off; and what is no number lets nobody in.
    let annotations = object.metadata.annotations.get_or_insert_default();
    annotations.insert(GENERATION.to_owned(), "many".to_owned());
    replica.registry.replace(vec![object]);
    held(&replica, "1", 0).await;
}

#[tokio::test]
async fn w12_an_agent_refuses_a_hub_with_another_authority_and_does_not_hurry_back() {
    let ks = server().await;
    let (ours, theirs, front) = (authority(), authority(), Front::new().await);
    let replica = Replica::new(TunnelLimits::default(), vec![dialled("m", "1")]);
    let replica = front.answers(replica.serving(&theirs));
    // The hub has another authority than the one that was pinned.
    let store = InMemory::issued(&ours, "m", "1", now());
    let error = checked(&front, ours.pin(), &store).await.unwrap_err();
    assert!(matches!(error, TunnelError::AnotherHub { .. }), "{error:?}");
    let words = error.to_string();
    assert!(
        words.contains("is not the hub that this cluster joined"),
        "{words}"
    );
    assert!(words.contains(ours.pin()), "{words}");
    // The stored authority is not the one pinned: nobody is even dialled.
    let before = front.dialled();
    let error = checked(&front, theirs.pin(), &store).await.unwrap_err();
    assert!(matches!(error, TunnelError::Authority(_)), "{error:?}");
    assert_eq!(front.dialled(), before);
    // A certificate of another authority than the hub's.
    let foreign = InMemory::issued(&ours, "m", "1", now());
    theirs
        .ca_pem()
        .clone_into(&mut foreign.0.lock().unwrap().authority);
    let error = checked(&front, theirs.pin(), &foreign).await.unwrap_err();
    assert!(
        matches!(error, TunnelError::NotAccepted { .. }),
        "{error:?}"
    );
    // One that has ended.
    let ended = now() - Duration::from_secs(200 * 24 * 3600);
    let ended = InMemory::issued(&theirs, "m", "1", ended);
    let error = checked(&front, theirs.pin(), &ended).await.unwrap_err();
    assert!(
        matches!(error, TunnelError::NotAccepted { .. }),
        "{error:?}"
    );
    assert_eq!(replica.tunnels().counters().accepted(), 0);

    // In the time in which one that finds nobody tries twenty times, one that was refused tries once.
    let dialled = front.dialled();
    let stop = CancellationToken::new();
    let url = ks.url();
    let refused = settings(&front.url, ours.pin(), &store, &url, &url, &stop);
    let _refused = start(refused, stop);
    until("it tries", || front.dialled() == dialled + 1).await;
    let silent = Front::new().await;
    let _cut_off = agent(&silent, &theirs, ("m", "1"), &ks, &ks, 1);
    until("the other one tries", || silent.dialled() >= 20).await;
    assert_eq!(front.dialled(), dialled + 1);
}

/// Dials as whoever holds these credentials, and returns what the hub says and the session.
async fn raw(front: &Front, authority: &TunnelAuthority, store: &InMemory) -> (Value, Session) {
    let kept = store.now();
    let own = kah_cluster::tunnel::authority::Issued {
        chain: kept.chain,
        key: kept.key,
    };
    let mut tls = client_config(authority.ca_pem(), authority.pin(), &own, clock()).unwrap();
    tls.alpn_protocols = vec![b"kubeaihub-tunnel/1".to_vec()];
    let settings = ConnectSettings {
        address: Address::parse(&front.url).unwrap(),
        path: PATH,
        proxies: Proxies::default(),
        tls: tls.into(),
        server_name: SERVER_NAME.try_into().unwrap(),
        step: Duration::from_secs(5),
    };
    let mut transport = connect(&settings).await.unwrap();
    let word = read_frame(&mut transport, 4096).await.unwrap();
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    let limits = SessionLimits::default();
    let (session, _incoming) = session(transport, Side::Dialled, limits, &stop, &tasks);
    (serde_json::from_slice(&word).unwrap(), session)
}

async fn ask(session: &Session, word: Value) -> Value {
    let mut stream = session.open().await.unwrap();
    write_frame(&mut stream, word.to_string().as_bytes())
        .await
        .unwrap();
    let answer = read_frame(&mut stream, 32 * 1024);
    let answer = tokio::time::timeout(Duration::from_secs(10), answer);
    serde_json::from_slice(&answer.await.unwrap().unwrap()).unwrap()
}

/// Mid-session, whatever it says: what is not an agent's to ask is refused and counted.
#[tokio::test]
async fn t2_nothing_that_an_agent_says_makes_it_another() {
    let b = server().await;
    let (authority, front) = (authority(), Front::new().await);
    let clusters = vec![dialled("a", "uid-a"), dialled("b", "uid-b")];
    let replica = Replica::new(TunnelLimits::default(), clusters).serving(&authority);
    let replica = front.answers(replica);
    let _agent = agent(&front, &authority, ("b", "uid-b"), &b, &b, 1);
    held(&replica, "uid-b", 1).await;

    let store = InMemory::issued(&authority, "a", "uid-a", now());
    let (word, session) = raw(&front, &authority, &store).await;
    assert_eq!(word, json!("yes"));
    for word in [
        json!({"relay": {"cluster": "uid-b", "target": "ks-apiserver"}}),
        json!({"relay": {"cluster": "uid-b", "target": "kube-apiserver"}}),
        json!({"to": "ks-apiserver"}),
        json!({"to": "kube-apiserver"}),
    ] {
        let answer = ask(&session, word).await;
        assert_eq!(answer["no"]["reason"], "not-allowed", "{answer}");
    }
    assert_eq!(replica.tunnels().counters().not_allowed(), 4);
    assert!(b.seen().is_empty());
    // A request for a certificate gets the session's own identity, whatever it names.
    let mut params = rcgen::CertificateParams::default();
    params.subject_alt_names = vec![rcgen::SanType::URI(
        "kubeaihub:agent:b:uid-b".try_into().unwrap(),
    )];
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let csr = params.serialize_request(&key).unwrap().pem().unwrap();
    let answer = ask(&session, json!({"renew": {"csr": csr}})).await;
    let chain = answer["certificate"].as_str().unwrap();
    let identity = kah_cluster::tunnel::authority::certifies(chain, &key.serialize_pem());
    assert_eq!(identity.unwrap().uri(), "kubeaihub:agent:a:uid-a");
    // Another replica's certificate opens members, but is none of an agent.
    let peer = authority.issue_peer("r2", now()).unwrap();
    let store = InMemory::issued(&authority, "a", "uid-a", now());
    {
        let mut credentials = store.0.lock().unwrap();
        (credentials.chain, credentials.key) = (peer.chain, peer.key);
    }
    let (word, session) = raw(&front, &authority, &store).await;
    assert_eq!(word, json!("yes"));
    let relay = json!({"relay": {"cluster": "uid-b", "target": "ks-apiserver"}});
    assert_eq!(ask(&session, relay).await, json!("yes"));
    let unknown = json!({"relay": {"cluster": "x", "target": "ks-apiserver"}});
    assert_eq!(ask(&session, unknown).await["no"]["reason"], "no-tunnel");
    let renew = json!({"renew": {"csr": csr}});
    assert_eq!(ask(&session, renew).await["no"]["reason"], "not-allowed");
}

/// Keeps what is renewed only when it may.
struct Gated(InMemory, Arc<tokio::sync::Notify>);

impl Store for Gated {
    fn load(&self) -> Stored<'_, Credentials> {
        self.0.load()
    }

    fn save(&self, credentials: Credentials) -> Stored<'_, ()> {
        Box::pin(async {
            self.1.notified().await;
            self.0.save(credentials).await
        })
    }
}

#[tokio::test]
async fn after_a_renewal_tunnels_are_replaced_and_what_goes_on_in_them_goes_on() {
    let (events, reply) = stream();
    let reply = Mutex::new(Some(reply));
    let ks = Member::start(None, move |seen| match seen.target.as_str() {
        "/watch" => reply.lock().unwrap().take().unwrap(),
        _ => answer(200, "text/plain", "here"),
    })
    .await
    .unwrap();
    let (authority, front) = (authority(), Front::new().await);
    let replica = Replica::new(TunnelLimits::default(), vec![dialled("m", "1")]);
    let replica = front.answers(replica.serving(&authority));
    let day = Duration::from_secs(24 * 3600);
    let store = InMemory::issued(&authority, "m", "1", now() - day * 70);
    let may = Arc::new(tokio::sync::Notify::new());
    let stop = CancellationToken::new();
    let url = ks.url();
    let told = settings(&front.url, authority.pin(), &store, &url, &url, &stop);
    let drain = Duration::from_secs(3);
    let _agent = start(
        Settings {
            store: Arc::new(Gated(store, may.clone())),
            tunnels: 2,
            drain,
            ..told
        },
        stop,
    );
    held(&replica, "1", 2).await;
    let member = replica.registry.get("m").unwrap();
    let watch = member.forward(get(), hop("/watch")).await.unwrap();
    let mut watch = watch.into_body();
    events.send(Ok("one".into())).await.unwrap();
    assert!(watch.frame().await.unwrap().is_ok());
    assert_eq!(front.dialled(), 2);

    may.notify_one();
    let deadline = Instant::now() + Duration::from_secs(10);
    while front.dialled() < 4 {
        let answered = member.forward(get(), hop("/x")).await.unwrap();
        assert_eq!(answered.status(), 200);
        let link = replica.tunnels().link("1");
        assert!(matches!(link, Link::Here(2..=4)), "{link:?}");
        assert!(Instant::now() < deadline, "{link:?}");
    }
    // The one that is in use is still there, and nothing new comes into it.
    events.send(Ok("two".into())).await.unwrap();
    assert!(watch.frame().await.unwrap().is_ok());
    held(&replica, "1", 2).await;
    assert!(watch.frame().await.unwrap().is_err(), "not for ever");
    let answered = member.forward(get(), hop("/x")).await.unwrap();
    assert_eq!(answered.status(), 200);
    assert_eq!(front.dialled(), 4);
}

#[tokio::test]
async fn a_certificate_is_renewed_before_it_ends() {
    let ks = server().await;
    let (authority, front) = (authority(), Front::new().await);
    let replica = Replica::new(TunnelLimits::default(), vec![dialled("m", "1")]);
    let _replica = front.answers(replica.serving(&authority));
    let day = Duration::from_secs(24 * 3600);
    // 90 days are given; 20 are left.
    let store = InMemory::issued(&authority, "m", "1", now() - day * 70);
    let before = store.now();
    let stop = CancellationToken::new();
    let url = ks.url();
    let told = settings(&front.url, authority.pin(), &store, &url, &url, &stop);
    let _agent = start(Settings { ..told }, stop);
    until("it is renewed", || store.now() != before).await;
    let after = store.now();
    assert!(expires(&after.chain).unwrap() > expires(&before.chain).unwrap() + day * 60);
    assert_ne!(after.key, before.key);
    checked(&front, authority.pin(), &store).await.unwrap();
}
