//! A restore whose process is killed, at each of its steps: the next one finishes or undoes it.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::{
    io::{BufRead, BufReader, Write},
    ops::ControlFlow,
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use kah_cluster::{
    Host,
    restore::{Outcome, Request, RestoreError, State, restore},
};
use kah_iam::clock::SystemClock;
use tokio_util::task::TaskTracker;

use crate::restore::{PATIENCE, Stage, proof};

/// Set in the process that is to be killed: the step at which it stops, and the file of the host's kubeconfig.
const STEP: &str = "RESTORE_TEST_STEP";
const HOST: &str = "RESTORE_TEST_HOST";

/// What the killed process does: restores, and stands still at a step for ever.
async fn victim(step: usize) {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let kubeconfig = kube::config::Kubeconfig::read_from(std::env::var(HOST).unwrap()).unwrap();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default())
        .await
        .unwrap();
    let client = kube::Client::try_from(config).unwrap();
    let registry = crate::registry();
    {
        let (registry, client) = (registry.clone(), client.clone());
        tokio::spawn(async move { registry.follow(client).await });
    }
    registry.synced().await;
    let host = Host {
        prover: kah_cluster::proof::Prover::without_key(
            Arc::default(),
            Arc::default(),
            Arc::new(kah_iam::clock::SystemClock::default()),
        ),
        client,
        registry,
        clock: Arc::new(SystemClock::default()),
        tasks: TaskTracker::new(),
    };
    let request = Request {
        patience: PATIENCE,
        ..Request::new("m", "victim", proof())
    };
    let mut told = 0;
    let mut observer = |state: &State| {
        told += 1;
        if told == step {
            println!("\nreached {:?}", state.step);
            std::io::stdout().flush().unwrap();
            loop {
                std::thread::park();
            }
        }
        ControlFlow::Continue(())
    };
    let ended = restore(&host, &request, &mut observer).await;
    println!("\nended {ended:?}");
}

/// Runs the victim and kills it where it stands; `None` where it came to its end before that step.
fn kill_at(step: usize, test: &str, host: &Path) -> Option<String> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(STEP, step.to_string())
        .env(HOST, host)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let said = lines
        .map_while(Result::ok)
        .find(|line| line.starts_with("reached ") || line.starts_with("ended "))
        .expect("the process says what became of it");
    child.kill().unwrap();
    child.wait().unwrap();
    said.strip_prefix("reached ").map(str::to_owned)
}

/// In the killed process: plays the victim. Otherwise gives the host's kubeconfig as a file, for it.
async fn played() -> bool {
    let Ok(step) = std::env::var(STEP) else {
        return false;
    };
    victim(step.parse().unwrap()).await;
    true
}

fn kubeconfig_of_host(stage: &Stage) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(stage.planes[0].admin_kubeconfig().as_bytes())
        .unwrap();
    file
}

async fn killed(step: usize, test: &'static str, host: &Path) -> Option<String> {
    let host = host.to_owned();
    tokio::task::spawn_blocking(move || kill_at(step, test, &host))
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_restore_is_finished_by_the_next() {
    if played().await {
        return;
    }
    let stage = Stage::new().await;
    stage.lazy.store(true, Ordering::SeqCst);
    let host = kubeconfig_of_host(&stage);
    let broken = stage.text().await;
    let mut cured = String::new();
    let mut steps = Vec::new();
    for step in 1.. {
        let name = "killed::a_killed_restore_is_finished_by_the_next";
        let Some(reached) = killed(step, name, host.path()).await else {
            break;
        };
        let between = stage.text().await;
        assert!(
            between == broken || between == cured || cured.is_empty(),
            "{reached}: {between}"
        );
        let since = Instant::now();
        let (_, ended) = stage.run(|_| false).await;
        let report = ended.unwrap();
        println!(
            "killed at {reached} ({step}): finished after {:?}",
            since.elapsed()
        );
        // At its last step all is done and written down.
        if reached == "Restored" {
            assert_eq!(report.outcome, Outcome::NothingToDo);
        } else {
            assert!(
                report.resumed && report.outcome == Outcome::Restored,
                "{report:?}"
            );
        }
        cured = stage.text().await;
        steps.push(reached);
        stage.break_again(&broken).await;
    }
    for step in ["Planned", "Changed", "Restarted", "Restored"] {
        assert!(
            steps.iter().any(|reached| reached == step),
            "{step}: {steps:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_restore_that_does_not_help_is_undone_by_the_next() {
    if played().await {
        return;
    }
    let stage = Stage::new().await;
    stage.obeys.store(false, Ordering::SeqCst);
    let host = kubeconfig_of_host(&stage);
    let broken = stage.text().await;
    let mut steps = Vec::new();
    for step in 1.. {
        let name = "killed::a_killed_restore_that_does_not_help_is_undone_by_the_next";
        let Some(reached) = killed(step, name, host.path()).await else {
            break;
        };
        let since = Instant::now();
        let (_, ended) = stage.run(|_| false).await;
        assert!(
            matches!(ended, Err(RestoreError::NotProven { .. })),
            "{reached}: {ended:?}"
        );
        println!(
            "killed at {reached} ({step}): undone after {:?}",
            since.elapsed()
        );
        assert_eq!(stage.text().await, broken, "{reached}");
        let map = stage.maps.get("kubesphere-config").await.unwrap();
        assert!(map.binary_data.unwrap_or_default().is_empty(), "{reached}");
        steps.push(reached);
    }
    for step in ["Planned", "Changed", "Restarted", "Undoing", "Undone"] {
        assert!(
            steps.iter().any(|reached| reached == step),
            "{step}: {steps:?}"
        );
    }
}
