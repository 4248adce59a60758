//! `kah up`: a host and members on this machine.

mod adjust;
mod data;
mod fault;
mod fleet;
mod joining;
mod port;
mod standing;
mod summary;
mod trust;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::arguments::{Up, UpFormat};
use crate::failure::Failure;
use crate::output;

pub use fault::Fault;

/// How long an orderly end may take.
const STOP_WITHIN: Duration = Duration::from_secs(15);
/// How long the ks-apiservers may take to be ready before that is called a failure.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// After this the person is told where everything is, even if not all of it is ready yet.
const PATIENCE: Duration = Duration::from_millis(2500);

/// Starts everything, says where it is, and runs until it is told to stop.
pub async fn run(options: Up) -> Result<(), Failure> {
    quiet_log();
    let mut stop = Stop::listen()?;
    fault::check(&options.faults, options.members)?;
    let data = data::DataDir::open(data::path(options.data_dir.as_deref(), |name| {
        std::env::var(name).ok()
    })?)?;
    let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port::choose(options.port)?);
    let mut fleet = tokio::select! {
        fleet = fleet::Fleet::start(&data, address, options.members, options.trust.trust()) => fleet?,
        () = stop.asked() => return Ok(()),
    };
    let served = tokio::select! {
        served = serve(&mut fleet, &options) => served,
        () = stop.asked() => Ok(()),
    };
    if served.is_ok() {
        if !stop.was_asked {
            stop.asked().await;
        }
        output::talk("Stopping.");
    }
    tokio::select! {
        stopped = tokio::time::timeout(STOP_WITHIN, fleet.stop()) => {
            if stopped.is_err() {
                output::talk(&format!("Not everything had ended after {} s.", STOP_WITHIN.as_secs()));
            }
        }
        // Asked twice: the person is in a hurry. Storage keeps what was acknowledged.
        () = stop.asked() => {}
    }
    served
}

/// Breaks what should be broken, waits until all is ready, and prints where everything is.
async fn serve(fleet: &mut fleet::Fleet, options: &Up) -> Result<(), Failure> {
    for broken in &options.faults {
        for told in fleet.break_member(broken).await? {
            output::talk(&told);
        }
    }
    let ready = tokio::time::timeout(READY_WITHIN, fleet.ready());
    tokio::pin!(ready);
    let early = tokio::select! {
        ready = &mut ready => Some(ready),
        () = tokio::time::sleep(PATIENCE) => None,
    };
    let not_ready = |_| {
        Failure::new(
            format!(
                "Not every ks-apiserver was ready within {} s.",
                READY_WITHIN.as_secs()
            ),
            "Look at their logs with kubectl and the kubeconfigs in the data folder.",
        )
    };
    match (early, options.output) {
        (Some(ready), format) => {
            ready.map_err(not_ready)?;
            output::data(&summary::print(fleet, format)?)
        }
        (None, UpFormat::Json) => {
            ready.await.map_err(not_ready)?;
            output::data(&summary::print(fleet, UpFormat::Json)?)
        }
        (None, UpFormat::Text) => {
            output::data(&summary::print(fleet, UpFormat::Text)?)?;
            output::talk("Still starting …");
            ready.await.map_err(not_ready)?;
            output::talk("All is ready.");
            Ok(())
        }
    }
}

/// Warnings go to stderr; RUST_LOG asks for more.
fn quiet_log() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("error"));
    // Only fails where a subscriber is set already.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .try_init();
}

/// Ctrl-C and SIGTERM.
struct Stop {
    interrupt: Signal,
    terminate: Signal,
    was_asked: bool,
}

impl Stop {
    fn listen() -> Result<Self, Failure> {
        let failed = |error| Failure::new("listen to signals", "Report this.").because(error);
        Ok(Stop {
            interrupt: signal(SignalKind::interrupt()).map_err(failed)?,
            terminate: signal(SignalKind::terminate()).map_err(failed)?,
            was_asked: false,
        })
    }

    /// Ends at the next signal.
    async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
        self.was_asked = true;
    }
}
