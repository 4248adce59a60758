//! `GET /kapis/metrics` (gateway.md §6): what this process counts, as Prometheus text. Anybody may read it, so it names no cluster and no user.

use std::fmt::Write;

use axum::response::Response;
use http::{HeaderValue, StatusCode};
use kah_cluster::Registry;

use crate::answer::respond;

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// The answer.
pub(crate) fn metrics(registry: &Registry) -> Response {
    respond(StatusCode::OK, TEXT, text(registry))
}

fn text(registry: &Registry) -> String {
    let (tunnels, open) = (registry.tunnels(), registry.open());
    let counters = tunnels.counters();
    let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    let mut out = String::new();
    family(
        &mut out,
        "kubeaihub_tunnels",
        "gauge",
        "Tunnels with agents of members that are held here",
        &[("", number(tunnels.count()))],
    );
    family(
        &mut out,
        "kubeaihub_tunnel_handshakes",
        "gauge",
        "Tunnels that have not shown who they are yet",
        &[("", number(tunnels.handshakes()))],
    );
    family(
        &mut out,
        "kubeaihub_tunnels_dialled_total",
        "counter",
        "Tunnels of agents and replicas that were dialled to here, by what became of them",
        &[
            ("{outcome=\"accepted\"}", counters.accepted()),
            ("{outcome=\"refused\"}", counters.refused()),
            ("{outcome=\"failed\"}", counters.failed()),
            ("{outcome=\"busy\"}", counters.busy()),
        ],
    );
    family(
        &mut out,
        "kubeaihub_tunnel_streams_refused_total",
        "counter",
        "Streams that asked for what their tunnel may not",
        &[("", counters.not_allowed())],
    );
    family(
        &mut out,
        "kubeaihub_upstream_open",
        "gauge",
        "What is open toward all members together",
        &[
            ("{what=\"connections\"}", number(open.connections)),
            ("{what=\"requests\"}", number(open.requests)),
            ("{what=\"splices\"}", number(open.splices)),
        ],
    );
    out
}

fn family(out: &mut String, name: &str, kind: &str, help: &str, values: &[(&str, u64)]) {
    // Writing to a string does not fail.
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
    for (labels, value) in values {
        let _ = writeln!(out, "{name}{labels} {value}");
    }
}
