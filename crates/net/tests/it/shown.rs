//! What a peer showed last is remembered.

use kah_net::{Kind, Roots, Upstream, Verify};
use rustls::pki_types::{CertificateDer, pem::PemObject};

use crate::{
    get,
    member::{Authority, Changing, Member, Pair, Reply, answer},
    settings, soon, to,
};

fn der(pair: &Pair) -> Option<Vec<u8>> {
    let der = CertificateDer::from_pem_slice(pair.certificate.as_bytes()).expect("certificate");
    Some(der.to_vec())
}

fn shown(upstream: &Upstream) -> Option<Vec<u8>> {
    upstream.shown().map(|shown| shown.certificate)
}

#[tokio::test]
async fn a_later_handshake_replaces_what_was_shown() {
    let (ours, other) = (
        Authority::new().expect("authority"),
        Authority::new().expect("authority"),
    );
    let issue = |authority: &Authority| authority.issue("127.0.0.1", false).expect("certificate");
    let (first, second, strange) = (issue(&ours), issue(&ours), issue(&other));
    let (certificate, mut config) = Changing::server(&first).expect("config");
    // Whoever hangs up closes the connection, as the next has to be seen.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let member = Member::start(Some(config), |seen| match seen.target.as_str() {
        "/hangup" => Reply::Hangup,
        _ => answer(200, "text/plain", "ok"),
    })
    .await
    .expect("member");
    let mut settings = settings(&member.url());
    settings.tls.roots = Roots::Pem(ours.pem().into());
    let upstream = Upstream::new(settings).expect("upstream");
    assert_eq!(upstream.shown(), None);
    let asked = async |target: &'static str| soon(upstream.send(get(target), to(target))).await;
    asked("/x").await.expect("answer");
    assert_eq!(shown(&upstream), der(&first));

    // A connection that is kept shows nothing new, and neither does a session that is taken up again.
    certificate.change(&second).expect("certificate");
    asked("/x").await.expect("answer");
    assert_eq!(shown(&upstream), der(&first));
    soon(upstream.look_anew()).await.expect("connection");
    assert_eq!(shown(&upstream), der(&second));
    let opened = member.opened();
    asked("/hangup").await.expect_err("no answer");
    asked("/x").await.expect("answer");
    assert!(member.opened() > opened);
    assert_eq!(shown(&upstream), der(&second));

    // Of a stranger nothing is remembered.
    certificate.change(&strange).expect("certificate");
    let error = soon(upstream.look_anew()).await.expect_err("stranger");
    assert_eq!(error.kind(), Kind::TlsUntrusted);
    assert_eq!(shown(&upstream), der(&second));
    upstream.close();
    let error = soon(upstream.look_anew()).await.expect_err("closed");
    assert_eq!(error.kind(), Kind::Closed);
}

#[tokio::test]
async fn it_is_remembered_also_of_a_peer_that_is_not_verified() {
    let ok = |_: &_| answer(200, "text/plain", "ok");
    let authority = Authority::new().expect("authority");
    let expired = authority.issue("somebody", true).expect("certificate");
    let tls = expired.server(None).expect("config");
    let member = Member::start(Some(tls), ok).await.expect("member");
    let mut careless = settings(&member.url());
    careless.tls.verify = Verify::Nothing;
    let careless = Upstream::new(careless).expect("upstream");
    soon(careless.look_anew()).await.expect("connection");
    assert_eq!(shown(&careless), der(&expired));

    let plain = Member::start(None, ok).await.expect("member");
    let upstream = Upstream::new(settings(&plain.url())).expect("upstream");
    soon(upstream.send(get("/x"), to("/x")))
        .await
        .expect("answer");
    soon(upstream.look_anew())
        .await
        .expect("nothing to look at");
    assert_eq!((upstream.shown(), plain.opened()), (None, 1));
}
