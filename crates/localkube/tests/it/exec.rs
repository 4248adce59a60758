//! `kubectl exec` as kube's own websocket client does it, over TLS.

use futures::SinkExt;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, AttachParams, AttachedProcess, TerminalSize};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{create_pod, pid, pod_spec, remote, start};

/// Everything that came on standard output and error, and the exit code.
async fn finish(mut process: AttachedProcess) -> (String, String, i32) {
    let (mut out, mut err) = (String::new(), String::new());
    let status = process.take_status().expect("status");
    let (mut stdout, mut stderr) = (process.stdout(), process.stderr());
    let reading = async {
        if let Some(stdout) = &mut stdout {
            stdout.read_to_string(&mut out).await.expect("stdout");
        }
    };
    let complaining = async {
        if let Some(stderr) = &mut stderr {
            stderr.read_to_string(&mut err).await.expect("stderr");
        }
    };
    let all = async { tokio::join!(status, reading, complaining) };
    let (status, (), ()) = tokio::time::timeout(std::time::Duration::from_secs(20), all)
        .await
        .expect("the session ends");
    let status = status.expect("a status");
    let code = match status.status.as_deref() {
        Some("Success") => 0,
        _ => {
            let causes = status
                .details
                .and_then(|details| details.causes)
                .unwrap_or_default();
            let cause = causes
                .into_iter()
                .find(|cause| cause.reason.as_deref() == Some("ExitCode"));
            cause
                .and_then(|cause| cause.message?.parse().ok())
                .expect("an exit code")
        }
    };
    (out, err, code)
}

#[tokio::test]
async fn commands_run_in_the_pods_folder() {
    let folder = tempfile::tempdir().expect("folder");
    let cluster = start("exec", folder.path()).await;
    let client = remote(&cluster).await;
    let extra = json!({"env": [{"name": "GREETING", "value": "hello"}]});
    create_pod(&client, "p", pod_spec("echo pid=$$$$; read line", extra)).await;
    pid(&client, "p", 0).await;
    let api: Api<Pod> = Api::namespaced(client, "default");
    let plain = || AttachParams::default().stdout(true).stderr(true);
    let table: [(&[&str], &str, &str, i32); 5] = [
        (&["echo", "a", "b"], "a b\n", "", 0),
        (&["sh", "-c", "echo $GREETING; exit 7"], "hello\n", "", 7),
        (&["false"], "", "", 1),
        (&["no-such"], "", "sh: no-such: not found\n", 127),
        (&["pwd"], "/\n", "", 0),
    ];
    for (command, out, err, code) in table {
        let process = api
            .exec("p", command.to_vec(), &plain())
            .await
            .expect("exec");
        let got = finish(process).await;
        assert_eq!(got, (out.to_owned(), err.to_owned(), code), "{command:?}");
    }

    // Lines that are sent to a shell; the end of the input ends it.
    let mut process = api
        .exec("p", ["sh"], &plain().stdin(true))
        .await
        .expect("exec");
    let mut stdin = process.stdin().expect("stdin");
    stdin.write_all(b"echo one\nexit 3\n").await.expect("write");
    let (out, _, code) = finish(process).await;
    assert_eq!((out.as_str(), code), ("one\n", 3));
    drop(stdin);

    let mut process = api
        .exec("p", ["cat"], &plain().stdin(true))
        .await
        .expect("exec");
    let mut stdin = process.stdin().expect("stdin");
    stdin.write_all(b"through").await.expect("write");
    stdin.shutdown().await.expect("end of input");
    drop(stdin);
    let (out, _, code) = finish(process).await;
    assert_eq!((out.as_str(), code), ("through", 0));

    // A terminal echoes, prompts, and may change its size at any time.
    let terminal = AttachParams::interactive_tty();
    let mut process = api.exec("p", ["sh"], &terminal).await.expect("exec");
    let mut size = process.terminal_size().expect("size");
    size.send(TerminalSize {
        width: 80,
        height: 24,
    })
    .await
    .expect("resize");
    let mut stdin = process.stdin().expect("stdin");
    stdin.write_all(b"echo typed\r").await.expect("write");
    let mut stdout = process.stdout().expect("stdout");
    let mut shown = Vec::new();
    let reading = async {
        while !shown.ends_with(b"\r\ntyped\r\n/ $ ") {
            shown.push(stdout.read_u8().await.expect("stdout"));
        }
    };
    let read = tokio::time::timeout(std::time::Duration::from_secs(20), reading).await;
    read.expect("the terminal answers");
    assert!(shown.starts_with(b"/ $ "), "{shown:?}");

    // Sessions that nobody ends do not hold the cluster up.
    let open = api.exec("p", ["sh"], &terminal).await.expect("exec");
    let stopping = tokio::time::timeout(std::time::Duration::from_secs(5), cluster.stop());
    stopping.await.expect("stops");
    drop(open);
}
