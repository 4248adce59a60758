//! What a person at a terminal is asked before anything changes.

use std::{
    ffi::OsStr,
    fs::File,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::{ffi::OsStrExt, fs::OpenOptionsExt},
    process::{Child, ChildStderr, Command, Stdio},
    sync::{Arc, Mutex},
};

use rustix::{
    fs::OFlags,
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
};
use serde_json::{Value, json};

use crate::fleet::program;

/// A host, and what it was asked for about restoring access.
struct Host {
    address: String,
    asked: Arc<Mutex<Vec<Value>>>,
}

impl Host {
    fn start(answer: fn(&Value) -> (u16, Value)) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let keep = Arc::clone(&asked);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, keep) = (stream.unwrap(), Arc::clone(&keep));
                std::thread::spawn(move || serve(stream, answer, &keep));
            }
        });
        Self { address, asked }
    }
}

fn serve(mut stream: TcpStream, answer: fn(&Value) -> (u16, Value), keep: &Mutex<Vec<Value>>) {
    let mut read = BufReader::new(stream.try_clone().unwrap());
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if read.read_line(&mut head).unwrap() == 0 {
            return;
        }
    }
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("content-length").then_some(value)
    });
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    read.read_exact(&mut body).unwrap();
    let (status, text) = if head.starts_with("POST ") && head.contains("/clusters/m/restore-access")
    {
        let body: Value = serde_json::from_slice(&body).unwrap();
        let answered = answer(&body);
        keep.lock().unwrap().push(body);
        answered
    } else {
        (404, json!({}))
    };
    let text = text.to_string();
    let length = text.len();
    let head = "Content-Type: application/json\r\nConnection: close";
    let _ = write!(
        stream,
        "HTTP/1.1 {status} X\r\n{head}\r\nContent-Length: {length}\r\n\r\n{text}"
    );
}

/// A command that has a terminal for its input.
struct Terminal {
    keys: File,
    child: Child,
    said: BufReader<ChildStderr>,
    heard: String,
}

impl Terminal {
    fn run(host: &Host, folder: &std::path::Path, arguments: &[&str]) -> Self {
        let login = folder.join("login.json");
        let stored = json!({"address": host.address, "user": "ann", "accessToken": "a"});
        std::fs::write(&login, stored.to_string()).unwrap();
        let keys = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&keys).unwrap();
        unlockpt(&keys).unwrap();
        let name = ptsname(&keys, Vec::new()).unwrap();
        let input = File::options()
            .read(true)
            .write(true)
            .custom_flags(OFlags::NOCTTY.bits().cast_signed())
            .open(OsStr::from_bytes(name.as_bytes()))
            .unwrap();
        let mut child = Command::new(program())
            .args(arguments)
            .env("KAH_CONFIG", &login)
            .stdin(input)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            keys: keys.into(),
            said: BufReader::new(child.stderr.take().unwrap()),
            child,
            heard: String::new(),
        }
    }

    /// Waits for the next question, which has to be this one, and answers it.
    fn answer(&mut self, question: &str, word: &str) {
        loop {
            let mut line = String::new();
            let read = self.said.read_line(&mut line).unwrap();
            self.heard.push_str(&line);
            assert_ne!(read, 0, "it does not ask {question:?}: {}", self.heard);
            if line.ends_with(" [y/N]\n") {
                assert_eq!(line, format!("{question} [y/N]\n"));
                break;
            }
        }
        writeln!(self.keys, "{word}").unwrap();
    }

    /// Its exit code, what it printed, and what it said.
    fn end(mut self) -> (Option<i32>, String, String) {
        self.said.read_to_string(&mut self.heard).unwrap();
        let output = self.child.wait_with_output().unwrap();
        let printed = String::from_utf8(output.stdout).unwrap();
        (output.status.code(), printed, self.heard)
    }
}

fn report(body: &Value) -> (u16, Value) {
    let planned = body["dryRun"] == true;
    let report = json!({
        "cluster": "m", "outcome": if planned { "Planned" } else { "Restored" },
        "code": "TokenNotInCache", "evidence": "401: token not found in cache", "restarted": false,
        "changes": [{"key": "a.b", "from": "2h0m0s", "to": "0"}],
        "actions": [{"what": "a.b", "from": "2h0m0s", "to": "0"}],
    });
    (200, report)
}

/// First of all the new authority has to be accepted.
fn report_of_changed_authority(body: &Value) -> (u16, Value) {
    if body["acceptCa"] == "BB" {
        return report(body);
    }
    let refused = json!({
        "kind": "Status", "status": "Failure", "code": 422,
        "message": "known is AA, shown is BB",
        "details": {"name": "m", "causes": [
            {"reason": "TLSUntrusted", "message": "`kah restore-access m --accept-ca BB`"},
            {"reason": "AuthorityChanged", "message": "BB", "field": "acceptCa"},
        ]},
    });
    (422, refused)
}

const CHANGE: &str = "Change this on m?";
const AUTHORITY: &str = "The new fingerprint is BB. Is this the member's?";

/// Restores with these answers to these questions; gives the exit code, what was printed, what was said, and what the host was asked for.
fn restore(
    answer: fn(&Value) -> (u16, Value),
    arguments: &[&str],
    dialogue: &[(&str, &str)],
) -> (Option<i32>, String, String, Vec<Value>) {
    let folder = tempfile::tempdir().unwrap();
    let host = Host::start(answer);
    let arguments = [&["restore-access", "m"], arguments].concat();
    let mut terminal = Terminal::run(&host, folder.path(), &arguments);
    for (question, word) in dialogue {
        terminal.answer(question, word);
    }
    let (code, printed, said) = terminal.end();
    let asked = host.asked.lock().unwrap().clone();
    (code, printed, said, asked)
}

#[test]
fn a_restore_changes_something_only_after_a_yes() {
    let look = json!({"dryRun": true});
    for word in ["n", "", "yep"] {
        let (code, printed, said, asked) = restore(report, &[], &[(CHANGE, word)]);
        assert_eq!((code, printed.as_str()), (Some(1), ""), "{said}");
        let begin = "TokenNotInCache: 401: token not found in cache\n  a.b\n  - 2h0m0s\n  + 0\n";
        assert!(said.starts_with(begin), "{said}");
        let end =
            "Nothing was changed: the answer was not yes.\nRun it again and answer y to go on.\n";
        assert!(said.ends_with(end), "{said}");
        assert_eq!(asked, std::slice::from_ref(&look), "{word:?}");
    }
    let (code, printed, said, asked) = restore(report, &[], &[(CHANGE, "y")]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(printed, "Access to m is restored, without a restart.\n");
    assert_eq!(asked, [look, json!({"dryRun": false, "agreed": ["a.b"]})]);
}

#[test]
fn a_changed_authority_is_asked_about_before_anything_else() {
    let look = json!({"dryRun": true});
    let accepted = json!({"dryRun": true, "acceptCa": "BB"});
    let agreed = json!({"dryRun": false, "acceptCa": "BB", "agreed": ["a.b"]});
    let of = report_of_changed_authority;
    for (dialogue, code, wanted) in [
        (vec![(AUTHORITY, "n")], 1, vec![&look]),
        (
            vec![(AUTHORITY, "y"), (CHANGE, "n")],
            1,
            vec![&look, &accepted],
        ),
        (
            vec![(AUTHORITY, "y"), (CHANGE, "y")],
            0,
            vec![&look, &accepted, &agreed],
        ),
    ] {
        let (ended, _, said, asked) = restore(of, &[], &dialogue);
        assert_eq!(ended, Some(code), "{said}");
        assert!(said.starts_with("known is AA, shown is BB\n"), "{said}");
        assert_eq!(asked.iter().collect::<Vec<_>>(), wanted, "{said}");
    }
    // That is a yes to the plan, and not to whom to trust.
    let (code, _, said, asked) = restore(of, &["--yes"], &[]);
    assert_ne!(code, Some(0));
    assert!(
        said.contains("`kah restore-access m --accept-ca BB`"),
        "{said}"
    );
    assert_eq!(asked, [look]);
}
