//! `kah`, the program: reads what was typed, lets the rooms do it, prints.

mod access;
mod agent;
mod apiserver;
mod arguments;
mod clusters;
mod commands;
mod config_check;
mod controller_manager;
mod failure;
mod hub;
mod logging;
mod login;
mod membership;
mod output;
mod process;
mod progress;
mod restore_access;
mod trust;
mod up;
mod watched;

use std::{process::ExitCode, time::Duration};

use arguments::{Arguments, Cluster, Command, Config, Trust};
use clap::Parser;
use failure::Failure;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // Before anything can speak TLS. It only fails where a provider is installed already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let done = match runtime {
        Ok(runtime) => {
            let done = runtime.block_on(run(arguments.command));
            // A read of standard input comes back when that is closed, and not before: it would hold up the end of the process.
            runtime.shutdown_timeout(Duration::from_millis(200));
            done
        }
        Err(error) => Err(Failure::new(
            "start the runtime",
            "Check the limits on threads and open files.",
        )
        .because(error)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output::talk(&format!("kah: {failure}"));
            ExitCode::from(failure.code())
        }
    }
}

async fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Up(options) => up::run(options).await,
        Command::Apiserver(arguments) => apiserver::run(arguments).await,
        Command::ControllerManager(arguments) => controller_manager::run(arguments).await,
        Command::Agent(arguments) => agent::run(arguments).await,
        Command::Login {
            address,
            user,
            password_stdin,
        } => commands::login(&address, &user, password_stdin).await,
        Command::Logout => commands::logout().await,
        Command::Whoami(output) => commands::whoami(output.output).await,
        Command::Kubeconfig { cluster, file } => {
            commands::kubeconfig(cluster.as_deref(), file.as_deref()).await
        }
        Command::Cluster(Cluster::List { watch, output }) => {
            clusters::list(output.output, watch).await
        }
        Command::Cluster(Cluster::Show { name, output }) => {
            clusters::show(&name, output.output).await
        }
        Command::Cluster(Cluster::Join(join)) => membership::join(&join).await,
        Command::Cluster(Cluster::Trust {
            name,
            trust,
            yes,
            output,
        }) => trust::move_to(&name, trust, yes, output.output).await,
        Command::Trust(Trust::Show(output)) => trust::show(output.output).await,
        Command::Trust(Trust::Rotate { force }) => trust::rotate(force).await,
        Command::Cluster(Cluster::Leave { name, yes, output }) => {
            membership::leave(&name, yes, output.output).await
        }
        Command::Doctor {
            clusters,
            watch,
            output,
        } => commands::doctor(&clusters, output.output, watch).await,
        Command::RestoreAccess {
            cluster,
            kubeconfig,
            accept_ca,
            dry_run,
            yes,
            output,
        } => {
            restore_access::run(&restore_access::Options {
                cluster,
                kubeconfig,
                accept_ca,
                dry_run,
                yes,
                format: output.output,
            })
            .await
        }
        Command::Config(Config::Check { file, output }) => config_check::run(&file, output.output),
    }
}
