//! A stored login whose token is about to end.

use std::{
    io::{Read, Write},
    net::TcpListener,
};

use crate::fleet::{finish, program};

/// A host that is away says nothing about the login: who asks again later has it still.
#[test]
fn only_a_refused_login_has_ended() {
    for (status, code, words) in [
        (None, 1, "does not answer"),
        (Some("503 Service Unavailable"), 1, "could not issue"),
        (Some("400 Bad Request"), 4, "has ended"),
        (Some("401 Unauthorized"), 4, "has ended"),
    ] {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        match status {
            None => drop(listener),
            Some(status) => {
                std::thread::spawn(move || {
                    for stream in listener.incoming() {
                        let mut stream = stream.unwrap();
                        let _ = stream.read(&mut [0; 4096]);
                        let head = "Content-Length: 2\r\nConnection: close\r\n\r\n{}";
                        let _ = write!(stream, "HTTP/1.1 {status}\r\n{head}");
                    }
                });
            }
        }
        let folder = tempfile::tempdir().unwrap();
        let login = folder.path().join("login.json");
        let stored = serde_json::json!({
            "address": address, "user": "ann", "accessToken": "a", "refreshToken": "r", "expiresAt": 1,
        });
        std::fs::write(&login, stored.to_string()).unwrap();
        let ran = finish(
            std::process::Command::new(program())
                .args(["cluster", "list"])
                .env("KAH_CONFIG", &login),
        );
        assert_eq!(ran.code, code, "{status:?}: {ran:?}");
        assert!(ran.stderr.contains(words), "{status:?}: {ran:?}");
    }
}
