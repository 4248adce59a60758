//! Members that joined by an agent become federated as soon as they can be asked.

use std::sync::Arc;

use kah_cluster::{
    Host,
    retry::{Pauses, Retry},
    trust::{Tried, TrustError, is_wanted, pursue},
    with_causes,
};
use kube::core::DynamicObject;
use tokio::sync::watch;

use crate::cluster::{News, tell_event};

/// Who asks, as the claim of a move tells it.
const BY: &str = "controller";
/// Looks in a row that find a ks-apiserver without federated trust: one may have seen a program that is being replaced.
const LOOKS: u32 = 3;

/// Works for one cluster until it is dropped. A move that is cut off by that is done again by the next process.
pub(crate) async fn run(host: &Host, name: &str, mut object: watch::Receiver<Arc<DynamicObject>>) {
    let (mut silent, mut refused) = (Pauses::of(Retry::TRANSIENT), Pauses::of(Retry::REFUSED));
    let (mut lacking, mut told) = (0, String::new());
    loop {
        let seen = object.borrow_and_update().clone();
        // Who has not enrolled has no identity, and nobody to ask.
        let uid = seen
            .data
            .pointer("/status/uid")
            .and_then(|uid| uid.as_str());
        if !is_wanted(&seen) || uid.is_none_or(str::is_empty) {
            silent.succeeded();
            refused.succeeded();
            (lacking, told) = (0, String::new());
            if object.changed().await.is_err() {
                return;
            }
            continue;
        }
        let (mut pause, mut unwritten) = (silent.failed(), false);
        match pursue(host, name, BY).await {
            Ok(Tried::Moved) => {
                let message = "The member is told the host's keys, and trust is federated.";
                tell(host, &seen, false, "TrustFederated", message.into()).await;
            }
            Ok(Tried::Lacking(error)) => {
                lacking += 1;
                if lacking == LOOKS {
                    undecided(host, name, &seen, &error).await;
                }
                if lacking >= LOOKS {
                    pause = refused.failed();
                }
            }
            Err(error) => {
                lacking = 0;
                unwritten = matches!(error, TrustError::Unasked { .. });
                if matches!(
                    error,
                    TrustError::NotAccepted { .. } | TrustError::Other { .. }
                ) {
                    pause = refused.failed();
                }
                let words = with_causes(&error);
                if words != told {
                    tracing::info!(
                        cluster = name,
                        "make trust federated: {words}; trying again"
                    );
                    told = words;
                }
            }
        }
        // Once it can be reached its status says so. Where more was tried, changes of the object are no reason to try sooner: they may be those of the try.
        if !unwritten {
            tokio::time::sleep(pause).await;
        } else if let Ok(Err(_)) = tokio::time::timeout(pause, object.changed()).await {
            return;
        }
    }
}

/// It is a member that knows nothing of federated trust, or says so. Whether it gets users' own tokens then is for people to decide.
async fn undecided(host: &Host, name: &str, seen: &DynamicObject, error: &TrustError) {
    let message = format!(
        "{}. Until that is decided nobody's token is sent there: `kah cluster trust {name} shared-secret`, or `kah cluster leave {name}`.",
        with_causes(error)
    );
    tell(host, seen, true, "TrustNotOffered", message).await;
}

async fn tell(host: &Host, about: &DynamicObject, warning: bool, reason: &str, message: String) {
    let reason = reason.to_owned();
    let news = News {
        warning,
        reason,
        message,
    };
    tell_event(&host.client, about, news, host.clock.now()).await;
}
