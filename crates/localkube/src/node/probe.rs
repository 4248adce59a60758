//! Startup, readiness and liveness probes over HTTP and TCP.

use std::net::Ipv4Addr;
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::net::TcpStream;

/// When a probe is made and what counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    pub initial: Duration,
    pub period: Duration,
    pub timeout: Duration,
    pub successes: u32,
    pub failures: u32,
}

impl Timing {
    /// As the probe says, with Kubernetes' defaults.
    pub fn of(probe: &Probe) -> Timing {
        let at_least = |value: Option<i32>, default: u64, least: u64| {
            value
                .map_or(default, |v| u64::try_from(v).unwrap_or(0))
                .max(least)
        };
        let count = |value, default| u32::try_from(at_least(value, default, 1)).unwrap_or(u32::MAX);
        Timing {
            initial: Duration::from_secs(at_least(probe.initial_delay_seconds, 0, 0)),
            period: Duration::from_secs(at_least(probe.period_seconds, 10, 1)),
            timeout: Duration::from_secs(at_least(probe.timeout_seconds, 1, 1)),
            successes: count(probe.success_threshold, 1),
            failures: count(probe.failure_threshold, 3),
        }
    }
}

/// Turns single answers into a verdict: a change needs as many equal answers in a row as the thresholds say.
#[derive(Clone, Copy, Debug)]
pub struct Verdict {
    timing: Timing,
    /// What holds now.
    pub good: bool,
    row: u32,
    last: Option<bool>,
}

impl Verdict {
    /// Starts with what holds before the first answer.
    pub fn new(timing: Timing, good: bool) -> Verdict {
        Verdict {
            timing,
            good,
            row: 0,
            last: None,
        }
    }

    /// Takes one answer in. True if it decided something: the threshold of its kind is reached.
    pub fn answer(&mut self, good: bool) -> bool {
        self.row = if self.last == Some(good) {
            self.row.saturating_add(1)
        } else {
            1
        };
        self.last = Some(good);
        let needed = if good {
            self.timing.successes
        } else {
            self.timing.failures
        };
        let decided = self.row >= needed;
        if decided {
            self.good = good;
        }
        decided
    }
}

fn port(port: &IntOrString, container: &Container) -> Option<u16> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => match name.parse() {
            Ok(number) => number,
            Err(_) => {
                let mut ports = container.ports.iter().flatten();
                ports
                    .find(|port| port.name.as_ref() == Some(name))?
                    .container_port
            }
        },
    };
    u16::try_from(number).ok()
}

/// Asks once. `Err` holds the text that kubelet's event would show.
pub async fn ask(probe: &Probe, container: &Container, ip: Ipv4Addr) -> Result<(), String> {
    let timeout = Timing::of(probe).timeout;
    let asked = async {
        if let Some(action) = &probe.http_get {
            http(action, container, ip).await
        } else if let Some(action) = &probe.tcp_socket {
            let port = port(&action.port, container).ok_or("invalid port number")?;
            let host = action.host.clone().unwrap_or_else(|| ip.to_string());
            TcpStream::connect((host.as_str(), port))
                .await
                .map(drop)
                .map_err(|error| format!("dial tcp {host}:{port}: {error}"))
        } else {
            // exec and gRPC: the built-in shell has nothing to ask, so the container counts as well.
            Ok(())
        }
    };
    tokio::time::timeout(timeout, asked)
        .await
        .unwrap_or_else(|_| Err("context deadline exceeded".to_owned()))
}

async fn http(action: &HTTPGetAction, container: &Container, ip: Ipv4Addr) -> Result<(), String> {
    let port = port(&action.port, container).ok_or("invalid port number")?;
    if action.scheme.as_deref() == Some("HTTPS") {
        // The certificate would not be verified anyway: that something answers is what can be known.
        return TcpStream::connect((ip, port))
            .await
            .map(drop)
            .map_err(|e| e.to_string());
    }
    let host = action.host.clone().unwrap_or_else(|| ip.to_string());
    let path = action.path.clone().unwrap_or_else(|| "/".to_owned());
    let url = format!("http://{host}:{port}{path}");
    let failed = |error: &dyn std::fmt::Display| format!("Get {url:?}: {error}");
    let mut request = http::Request::get(&path)
        .header(http::header::HOST, format!("{host}:{port}"))
        .header(http::header::USER_AGENT, "kube-probe/1.36")
        .header(http::header::ACCEPT, "*/*");
    for header in action.http_headers.iter().flatten() {
        request = request.header(&header.name, &header.value);
    }
    let request = request
        .body(Empty::<bytes::Bytes>::new())
        .map_err(|error| failed(&error))?;
    let stream = TcpStream::connect((host.as_str(), port))
        .await
        .map_err(|error| {
            let why = match error.kind() {
                std::io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
                _ => error.to_string(),
            };
            failed(&format!("dial tcp {host}:{port}: {why}"))
        })?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| failed(&error))?;
    let exchange = async move {
        let response = sender.send_request(request).await?;
        let status = response.status();
        // Nobody reads more of a probe's answer than this.
        let _ = http_body_util::Limited::new(response.into_body(), 10 << 10)
            .collect()
            .await;
        Ok::<_, hyper::Error>(status)
    };
    let mut exchange = std::pin::pin!(exchange);
    let mut connection = std::pin::pin!(connection);
    let status = tokio::select! {
        status = &mut exchange => status,
        _ = &mut connection => exchange.await,
    };
    let status = status.map_err(|error| failed(&error))?;
    if status.is_success() || status.is_redirection() {
        Ok(())
    } else {
        Err(format!(
            "HTTP probe failed with statuscode: {}",
            status.as_u16()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn thresholds_count_answers_in_a_row() {
        let probe: Probe =
            serde_json::from_value(json!({"successThreshold": 2, "failureThreshold": 3})).unwrap();
        let mut verdict = Verdict::new(Timing::of(&probe), false);
        let answers = [
            (true, false),
            (false, false),
            (true, false),
            (true, true),
            (false, true),
            (false, true),
            (true, true),
            (false, true),
            (false, true),
            (false, false),
        ];
        for (at, (answer, expected)) in answers.into_iter().enumerate() {
            verdict.answer(answer);
            assert_eq!(verdict.good, expected, "answer {at}");
        }
    }
}
