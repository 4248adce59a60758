//! A fleet and what the tests ask of it.

use std::process::Command;
use std::time::Duration;

use kah_api::seed;
use kah_testkit::fleet::{Fleet, until};
use kah_testkit::http_client;
use kah_testkit::kubectl::{Kubectl, Ran};
use rustix::process::{Pid, Signal, kill_process};

/// The namespace of ks-apiserver, as kubectl takes it.
pub const OURS: [&str; 2] = ["-n", "kubesphere-system"];

/// The program under test.
pub fn program() -> &'static std::path::Path {
    std::path::Path::new(env!("CARGO_BIN_EXE_kah"))
}

/// A fleet that is ready.
pub fn start(arguments: &[&str]) -> Fleet {
    Fleet::start(program(), arguments).unwrap()
}

/// The same on real control planes, where this machine has one.
pub fn start_real(members: usize) -> Option<Fleet> {
    let Some(assets) = kah_testkit::plane::assets() else {
        println!("no real control plane: KUBEBUILDER_ASSETS is not set");
        return None;
    };
    Some(Fleet::start_real(&assets, program(), members).unwrap())
}

/// A token of admin.
pub fn token(fleet: &Fleet) -> String {
    let facts = fleet.facts();
    http_client::token(&facts.address, &facts.user, &fleet.password().unwrap()).unwrap()
}

/// Stores a login for `kah` commands.
pub fn log_in(fleet: &Fleet) {
    let facts = fleet.facts();
    let file = std::fs::File::open(&facts.password_file).unwrap();
    let mut command = fleet.kah(&[
        "login",
        &facts.address,
        "--user",
        "admin",
        "--password-stdin",
    ]);
    let ran = finish(command.stdin(file));
    assert_eq!(ran.code, 0, "{ran:?}");
}

/// Ends the host's controllers, where a test is about what people see and do: they mend some faults by themselves.
pub fn without_controllers(fleet: &Fleet) {
    let host = fleet.kubectl("host").unwrap();
    let scale = ["scale", "deploy", seed::CONTROLLERS, "--replicas=0"];
    ok(&host, &[OURS.as_slice(), &scale].concat());
    let which = format!("app={}", seed::CONTROLLERS);
    let get = ["get", "pods", "-l", &which, "-o", "name"];
    until(Duration::from_secs(30), "the controllers end", || {
        let left = ok(&host, &[OURS.as_slice(), &get].concat());
        left.trim().is_empty().then_some(())
    })
    .unwrap();
}

/// Runs a command of the program.
pub fn kah(fleet: &Fleet, arguments: &[&str]) -> Ran {
    finish(&mut fleet.kah(arguments))
}

/// Runs a command to its end.
pub fn finish(command: &mut Command) -> Ran {
    let output = command.output().unwrap();
    Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// kubectl through the host, with a token instead of a certificate.
pub fn through_host(fleet: &Fleet, cluster: &str, token: &str) -> Kubectl {
    let path = fleet.folder().join(format!("through-{cluster}.yaml"));
    // kubectl sends a token over TLS only; the same port speaks it.
    let address = fleet.facts().address.replacen("http:", "https:", 1);
    let authority = fleet.facts().certificate_authority.display().to_string();
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
         clusters: [{{name: c, cluster: {{server: \"{address}/clusters/{cluster}\", certificate-authority: \"{authority}\"}}}}]\n\
         contexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n\
         users: [{{name: u, user: {{token: \"{token}\"}}}}]\n"
    );
    std::fs::write(&path, text).unwrap();
    Kubectl::new(&path).unwrap()
}

/// Runs kubectl and insists on success.
pub fn ok(kubectl: &Kubectl, arguments: &[&str]) -> String {
    let ran = kubectl.run(arguments);
    assert_eq!(ran.code, 0, "kubectl {arguments:?}: {ran:?}");
    ran.stdout
}

/// The name of the Pod of ks-apiserver that is not on its way out.
pub fn server_pod(kubectl: &Kubectl) -> String {
    until(Duration::from_secs(20), "one ks-apiserver Pod", || {
        let ran = kubectl.run(&[
            OURS[0],
            OURS[1],
            "get",
            "pods",
            "-l",
            "app=ks-apiserver",
            "-o",
            r#"jsonpath={range .items[?(@.status.phase=="Running")]}{.metadata.name} {.metadata.deletionTimestamp}{"\n"}{end}"#,
        ]);
        let staying: Vec<&str> = ran
            .stdout
            .lines()
            .filter(|line| !line.is_empty() && line.ends_with(' '))
            .map(str::trim)
            .collect();
        match staying.as_slice() {
            [one] => Some((*one).to_owned()),
            _ => None,
        }
    })
    .unwrap()
}

/// The ConfigMap that holds a cluster's configuration, as JSON.
pub fn configuration_map(kubectl: &Kubectl) -> String {
    get_map(kubectl, "json")
}

/// A cluster's `kubesphere.yaml`.
pub fn configuration(kubectl: &Kubectl) -> String {
    get_map(kubectl, r"jsonpath={.data.kubesphere\.yaml}")
}

fn get_map(kubectl: &Kubectl, form: &str) -> String {
    let get = ["get", "cm", "kubesphere-config", "-o", form];
    ok(kubectl, &[OURS.as_slice(), &get].concat())
}

/// Writes the ConfigMap back.
pub fn replace_map(kubectl: &Kubectl, map: &str) {
    let ran = kubectl.run_with_input(&["replace", "-f", "-"], map);
    assert_eq!(ran.code, 0, "{ran:?}");
}

/// Changes a line of a cluster's `kubesphere.yaml`, as the manual says.
pub fn edit(kubectl: &Kubectl, from: &str, to: &str) {
    let map = configuration_map(kubectl);
    assert!(map.contains(from), "{from} is not in the configuration");
    replace_map(kubectl, &map.replace(from, to));
}

/// Sends a signal to the process that is a cluster's ks-apiserver under `kah up`.
pub fn signal_server(fleet: &Fleet, cluster: &str, signal: Signal) {
    let found = processes(fleet, cluster, "apiserver");
    assert_eq!(found.len(), 1, "processes of ks-apiserver of {cluster}");
    kill_process(found[0], signal).unwrap();
}

/// The processes of a cluster's Pods under `kah up` that run this command of the program.
pub fn processes(fleet: &Fleet, cluster: &str, command: &str) -> Vec<Pid> {
    let folder = fleet.data_dir().join("clusters").join(cluster);
    let mark = format!("KAH_ROOT={}", folder.display());
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let id = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        let Some(id) = id.and_then(Pid::from_raw) else {
            continue;
        };
        let read = |file: &str| std::fs::read(entry.path().join(file)).unwrap_or_default();
        let has = |file: &str, begins: &str| {
            let text = read(file);
            String::from_utf8_lossy(&text)
                .split('\0')
                .any(|part| part.starts_with(begins))
        };
        if has("environ", &mark) && has("cmdline", command) {
            found.push(id);
        }
    }
    found
}
