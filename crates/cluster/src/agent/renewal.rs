//! A certificate that is renewed well before it ends, through a tunnel that it opened.

use std::{sync::Arc, time::Duration};

use kah_net::tunnel::Session;

use super::{Credentials, CredentialsError, Settings, tunnels::Live};
use crate::{
    retry::{Pauses, Retry},
    tunnel::{
        authority::{
            AuthorityError, Issued, RENEW_BEFORE, client_config, expires, private_key,
            request_certificate,
        },
        protocol::{Answer, OpenError, Opening, WORD, ask},
    },
};

/// Between two looks at the certificate, and at most after a failure.
const LOOK: Duration = Duration::from_secs(60 * 60);

#[derive(Debug, thiserror::Error)]
enum RenewalError {
    #[error("read or keep the agent's certificate")]
    Store(#[from] CredentialsError),
    #[error("ask for a certificate")]
    Request(#[from] AuthorityError),
    #[error("ask the hub for a certificate")]
    Hub(#[from] OpenError),
    #[error("the hub sent something that is no certificate of this agent's")]
    Unfit,
}

/// Looks again and again, for ever.
pub(super) async fn renew(settings: &Arc<Settings>, live: &Live) {
    let mut pauses = Pauses::of(Retry {
        first: Duration::from_secs(30),
        longest: LOOK,
        at_least: 50,
    });
    loop {
        let session = live.any().await;
        let pause = match once(settings, live, &session).await {
            Ok(renewed) => {
                if renewed {
                    tracing::info!("the agent's certificate was renewed");
                }
                pauses.succeeded();
                LOOK
            }
            Err(error) => {
                let error = crate::with_causes(&error);
                tracing::warn!(%error, "renew the agent's certificate; trying again");
                pauses.failed()
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// Renews it if it ends soon. Somebody else may have done so, too.
async fn once(settings: &Settings, live: &Live, session: &Session) -> Result<bool, RenewalError> {
    let kept = settings.store.load().await?;
    live.newest(expires(&kept.chain));
    let now = settings.clock.now();
    let soon = expires(&kept.chain).is_some_and(|ends| {
        ends.duration_since(now).as_secs() < RENEW_BEFORE.as_secs().cast_signed()
    });
    if !soon {
        return Ok(false);
    }
    let key = private_key()?;
    let csr = request_certificate(&key)?;
    let (_, Answer::Certificate(chain)) = ask(session, &Opening::Renew { csr }, WORD).await? else {
        return Err(RenewalError::Unfit);
    };
    // What would not open the next tunnel does not take the place of what does.
    let issued = Issued {
        chain: chain.clone(),
        key: key.clone(),
    };
    let clock = Arc::clone(&settings.clock);
    let fits = client_config(&kept.authority, &settings.pin, &issued, clock);
    let ends = expires(&chain);
    if fits.is_err() || ends <= expires(&kept.chain) {
        return Err(RenewalError::Unfit);
    }
    settings
        .store
        .save(Credentials {
            chain,
            key,
            authority: kept.authority,
        })
        .await?;
    live.newest(ends);
    Ok(true)
}
