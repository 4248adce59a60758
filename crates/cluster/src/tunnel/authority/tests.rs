#![allow(clippy::unwrap_used)]

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use kah_iam::Clock;
use rustls::{ClientConfig, ClientConnection, ServerConnection};

use super::*;

const NOW: i64 = 1_800_000_000;

struct Hands(AtomicI64);

impl Clock for Hands {
    fn now(&self) -> Timestamp {
        Timestamp::from_second(self.0.load(Ordering::SeqCst)).unwrap()
    }

    fn uptime(&self) -> f64 {
        0.0
    }
}

fn clock() -> Arc<Hands> {
    Arc::new(Hands(AtomicI64::new(NOW)))
}

fn agent(authority: &TunnelAuthority, now: Timestamp) -> Issued {
    let key = private_key().unwrap();
    let csr = request_certificate(&key).unwrap();
    let chain = authority
        .issue_agent(&csr, &AgentIdentity::first("m", "uid-1"), now)
        .unwrap();
    Issued { chain, key }
}

/// A handshake in memory; the identity that the server reads.
fn handshake(
    server: &Arc<TunnelAuthority>,
    client: ClientConfig,
    clock: &Arc<Hands>,
) -> Result<Option<Identity>, rustls::Error> {
    let server = server.server_config(clock.clone()).unwrap();
    let mut server = ServerConnection::new(Arc::new(server)).unwrap();
    let name = SERVER_NAME.try_into().unwrap();
    let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
    // TLS 1.3 is done after three flights; one more tells the client of a refusal.
    for _ in 0..4 {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        server.read_tls(&mut wire.as_slice()).unwrap();
        server.process_new_packets()?;
        wire.clear();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        client.read_tls(&mut wire.as_slice()).unwrap();
        client.process_new_packets()?;
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok(server
        .peer_certificates()
        .and_then(|chain| Identity::of(&chain[0])))
}

#[test]
fn agents_and_peers_are_known_by_their_certificates() {
    let clock = clock();
    let now = clock.now();
    let authority = Arc::new(TunnelAuthority::in_memory(now).unwrap());
    let own = agent(&authority, now);
    let config = client_config(authority.ca_pem(), authority.pin(), &own, clock.clone()).unwrap();
    let known = handshake(&authority, config, &clock).unwrap();
    let expected = Identity::Agent(AgentIdentity::first("m", "uid-1"));
    assert_eq!(known, Some(expected));
    let peer = authority.issue_peer("replica-0", now).unwrap();
    let config = client_config(authority.ca_pem(), authority.pin(), &peer, clock.clone()).unwrap();
    let known = handshake(&authority, config, &clock).unwrap();
    let expected = Identity::Peer {
        replica: "replica-0".to_owned(),
    };
    assert_eq!(known, Some(expected));
}

#[test]
fn w12_another_authority_is_refused_on_both_sides() {
    let clock = clock();
    let now = clock.now();
    let ours = Arc::new(TunnelAuthority::in_memory(now).unwrap());
    let other = Arc::new(TunnelAuthority::in_memory(now).unwrap());
    let own = agent(&ours, now);
    // The hub has another authority.
    let config = client_config(ours.ca_pem(), ours.pin(), &own, clock.clone()).unwrap();
    assert!(handshake(&other, config, &clock).is_err());
    // The agent is somebody else's.
    let theirs = agent(&other, now);
    let config = client_config(ours.ca_pem(), ours.pin(), &theirs, clock.clone()).unwrap();
    assert!(handshake(&ours, config, &clock).is_err());
    // What is shown is not what was pinned; nor is a bundle that holds it.
    for shown in [
        other.ca_pem().to_owned(),
        format!("{}{}", ours.ca_pem(), other.ca_pem()),
        String::new(),
    ] {
        let refused = client_config(&shown, ours.pin(), &own, clock.clone());
        assert!(
            matches!(refused, Err(AuthorityError::Pin { .. })),
            "{shown}"
        );
    }
}

#[test]
fn s17_an_agent_is_no_server_and_a_server_no_agent() {
    let clock = clock();
    let now = clock.now();
    let authority = Arc::new(TunnelAuthority::in_memory(now).unwrap());
    let server = authority.server_certificate(now).unwrap();
    let config =
        client_config(authority.ca_pem(), authority.pin(), &server, clock.clone()).unwrap();
    assert!(handshake(&authority, config, &clock).is_err());
    let own = agent(&authority, now);
    let certificate = &chain(&own.chain).unwrap()[0];
    let (_, parsed) = parse_x509_certificate(certificate).unwrap();
    let purposes = parsed.extended_key_usage().unwrap().unwrap().value;
    assert!(purposes.client_auth && !purposes.server_auth && !purposes.any);
    assert!(!parsed.is_ca());
}

#[test]
fn certificates_end_and_the_server_renews_its_own() {
    let clock = clock();
    let now = clock.now();
    let authority = Arc::new(TunnelAuthority::in_memory(now).unwrap());
    let own = agent(&authority, now);
    let end = expires(&own.chain).unwrap();
    assert_eq!(end.as_second() - NOW, 90 * 24 * 3600);
    clock.0.store(end.as_second() + 1, Ordering::SeqCst);
    let config = client_config(authority.ca_pem(), authority.pin(), &own, clock.clone()).unwrap();
    assert!(handshake(&authority, config, &clock).is_err());
    // A configuration from long ago still serves.
    let clock = self::clock();
    let server = Arc::new(authority.server_config(clock.clone()).unwrap());
    clock.0.fetch_add(300 * 24 * 3600, Ordering::SeqCst);
    let own = agent(&authority, clock.now());
    let config = client_config(authority.ca_pem(), authority.pin(), &own, clock.clone()).unwrap();
    let mut client =
        ClientConnection::new(Arc::new(config), SERVER_NAME.try_into().unwrap()).unwrap();
    let mut server = ServerConnection::new(server).unwrap();
    let mut wire = Vec::new();
    client.write_tls(&mut wire).unwrap();
    server.read_tls(&mut wire.as_slice()).unwrap();
    server.process_new_packets().unwrap();
    wire.clear();
    while server.wants_write() {
        server.write_tls(&mut wire).unwrap();
    }
    client.read_tls(&mut wire.as_slice()).unwrap();
    client.process_new_packets().unwrap();
}

#[test]
fn what_a_request_asks_for_is_ignored() {
    let now = clock().now();
    let authority = TunnelAuthority::in_memory(now).unwrap();
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let mut params = CertificateParams::new(vec!["hub.example.org".to_owned()]).unwrap();
    params.distinguished_name = common_name("system:masters");
    let other = Identity::Agent(AgentIdentity::first("other", "u"));
    params
        .subject_alt_names
        .push(SanType::URI(other.uri().try_into().unwrap()));
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let csr = params.serialize_request(&key).unwrap().pem().unwrap();
    let issued = authority
        .issue_agent(&csr, &AgentIdentity::first("m", "uid-1"), now)
        .unwrap();
    let certificate = &chain(&issued).unwrap()[0];
    let expected = Identity::Agent(AgentIdentity::first("m", "uid-1"));
    assert_eq!(Identity::of(certificate), Some(expected));
    let (_, parsed) = parse_x509_certificate(certificate).unwrap();
    assert_eq!(parsed.subject().to_string(), "CN=m");
    assert!(
        !parsed
            .extended_key_usage()
            .unwrap()
            .unwrap()
            .value
            .server_auth
    );
    // The same key again is another certificate.
    let again = authority
        .issue_agent(&csr, &AgentIdentity::first("m", "uid-1"), now)
        .unwrap();
    assert_ne!(issued, again);
}

#[test]
fn an_agent_of_a_later_enrolment_is_another_and_each_has_one_form() {
    let now = clock().now();
    let authority = TunnelAuthority::in_memory(now).unwrap();
    let csr = request_certificate(&private_key().unwrap()).unwrap();
    let later = AgentIdentity {
        generation: 7,
        ..AgentIdentity::first("m", "u")
    };
    let issued = authority.issue_agent(&csr, &later, now).unwrap();
    let read = Identity::of(&chain(&issued).unwrap()[0]);
    assert_eq!(read, Some(Identity::Agent(later)));
    for (uri, is_one) in [
        ("kubeaihub:agent:m:u", true),
        ("kubeaihub:agent:m:u:7", true),
        ("kubeaihub:agent:m:u:0", false),
        ("kubeaihub:agent:m:u:07", false),
        ("kubeaihub:agent:m:u:+7", false),
        ("kubeaihub:agent:m:u:", false),
        ("kubeaihub:agent:m:u:7:7", false),
        ("kubeaihub:agent:m", false),
        ("kubeaihub:peer:m:u", false),
    ] {
        let name = SanType::URI(uri.try_into().unwrap());
        let params = certificate("m", name, ExtendedKeyUsagePurpose::ClientAuth, now).unwrap();
        let issued = authority.with_key(params).unwrap();
        let read = Identity::of(&chain(&issued.chain).unwrap()[0]);
        assert_eq!(read.is_some(), is_one, "{uri} {read:?}");
    }
}

#[test]
fn j16_what_is_no_request_or_no_name_is_not_signed() {
    let now = clock().now();
    let authority = TunnelAuthority::in_memory(now).unwrap();
    let csr = request_certificate(&private_key().unwrap()).unwrap();
    for (cluster, uid) in [
        ("", "u"),
        ("a:b", "u"),
        ("m", ""),
        ("m", "u:x"),
        ("m", "ü"),
        ("m\n", "u"),
    ] {
        let refused = authority.issue_agent(&csr, &AgentIdentity::first(cluster, uid), now);
        assert!(
            matches!(refused, Err(AuthorityError::Name(_))),
            "{cluster:?} {uid:?}"
        );
    }
    let rsa_like = CertificateParams::default()
        .serialize_request(&KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap())
        .unwrap()
        .pem()
        .unwrap();
    // Signed by another key than the one it shows.
    let forged = {
        let mut bytes = csr.clone().into_bytes();
        let at = csr.rfind("\n-----END").unwrap() - 8;
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        String::from_utf8(bytes).unwrap()
    };
    for request in [
        String::new(),
        "rubbish".to_owned(),
        rsa_like,
        forged,
        format!("{csr}{}", " ".repeat(LARGEST_REQUEST)),
    ] {
        let refused = authority.issue_agent(&request, &AgentIdentity::first("m", "u"), now);
        assert!(matches!(refused, Err(AuthorityError::Request)), "{request}");
    }
    for shown in [
        format!("{authority:?}"),
        format!("{:?}", agent(&authority, now)),
    ] {
        assert!(!shown.contains("PRIVATE"), "{shown}");
    }
}
