//! Those who dial and never show who they are.

use std::time::Duration;

use kah_cluster::tunnel::TunnelLimits;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{Front, Replica, agent, authority, dialled, held};
use crate::{
    get, hop,
    member::{Member, answer},
    until,
};

/// How many dial; the number that matters is the one allowed, which they exceed many times.
const DIALLERS: usize = 500;
const ALLOWED: usize = 16;

#[tokio::test]
async fn w11_half_open_tunnels_are_bounded_and_joined_members_do_not_notice() {
    let ks = Member::start(None, |_| answer(200, "text/plain", "here"))
        .await
        .unwrap();
    let (authority, front) = (authority(), Front::new().await);
    let limits = TunnelLimits {
        handshakes: ALLOWED,
        handshake: Duration::from_secs(2),
        grace: Duration::from_millis(1),
        ..TunnelLimits::default()
    };
    let clusters = vec![dialled("m", "1"), dialled("late", "2")];
    let replica = Replica::new(limits, clusters).serving(&authority);
    let replica = front.answers(replica);
    let _agent = agent(&front, &authority, ("m", "1"), &ks, &ks, 1);
    held(&replica, "1", 1).await;
    let member = replica.registry.get("m").unwrap();

    let address = front.url.trim_start_matches("http://").to_owned();
    let mut open = Vec::new();
    let mut most = 0;
    for number in 0..DIALLERS {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        stream
            .write_all(
                b"GET /x HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                  Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
            )
            .await
            .unwrap();
        let mut status = [0; 12];
        stream.read_exact(&mut status).await.unwrap();
        assert!(
            status.ends_with(b"101") || status.ends_with(b"503"),
            "{status:?}"
        );
        open.push(stream);
        most = most.max(replica.tunnels().handshakes());
        if number % 50 == 0 {
            member.forward(get(), hop("/x")).await.unwrap();
        }
    }
    assert!(most <= ALLOWED, "{most} at a time");
    // An agent that means it gets in while they hold every place.
    let _late = agent(&front, &authority, ("late", "2"), &ks, &ks, 1);
    held(&replica, "2", 1).await;
    until("their places are free", || {
        replica.tunnels().handshakes() == 0
    })
    .await;
    let counters = replica.tunnels().counters();
    assert_eq!(counters.accepted(), 2);
    // Counted when the task that looked after it has ended.
    until("all are counted", || {
        counters.failed() + counters.busy() >= DIALLERS as u64
    })
    .await;
    drop(open);
}
