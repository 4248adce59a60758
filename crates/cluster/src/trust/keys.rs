//! The Secret with the host's signing keys: whoever writes it writes against the version that was read, so that of two at once one wins.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kah_api::seed;
use kah_iam::{
    SigningKeys,
    federated::{KeysError, SIGNING_KEYS},
};
use kube::{Api, Client, api::PostParams, core::ObjectMeta};
use serde::Serialize;

use super::{Survey, TrustError, failed, survey};
use crate::{Host, retry::TRIES};

fn secrets(client: &Client) -> Api<Secret> {
    Api::namespaced(client.clone(), seed::NAMESPACE)
}

fn read(secret: Secret) -> Result<SigningKeys, TrustError> {
    Ok(SigningKeys::read(&secret.data.unwrap_or_default())?)
}

/// The keys of the host behind this client; the first one is made where there is none.
///
/// # Errors
/// [`TrustError`].
pub async fn ensure(client: &Client, now: Timestamp) -> Result<SigningKeys, TrustError> {
    let secrets = secrets(client);
    let get = || async {
        secrets
            .get_opt(SIGNING_KEYS)
            .await
            .map_err(failed("read Secret hub-signing-keys"))
    };
    if let Some(secret) = get().await? {
        return read(secret);
    }
    let keys = SigningKeys::first(now)?;
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some(SIGNING_KEYS.into()),
            namespace: Some(seed::NAMESPACE.into()),
            ..ObjectMeta::default()
        },
        data: Some(keys.to_data()),
        type_: Some("Opaque".into()),
        ..Secret::default()
    };
    match secrets.create(&PostParams::default(), &secret).await {
        Ok(_) => Ok(keys),
        // Another replica was faster: its keys count.
        Err(kube::Error::Api(status)) if status.code == 409 => match get().await? {
            Some(secret) => read(secret),
            None => Err(TrustError::Keys(KeysError::Records)),
        },
        Err(error) => Err(failed("create Secret hub-signing-keys")(error)),
    }
}

/// Changes the keys of a host; the change may be made more than once, each time on what is there by then. This replica signs with the outcome at once.
///
/// # Errors
/// [`TrustError`]; what `change` refuses is [`TrustError::Keys`].
pub async fn change(
    host: &Host,
    mut change: impl FnMut(&mut SigningKeys) -> Result<(), KeysError>,
) -> Result<SigningKeys, TrustError> {
    let secrets = secrets(&host.client);
    let mut tries = 0;
    let keys = loop {
        let mut secret = secrets
            .get(SIGNING_KEYS)
            .await
            .map_err(failed("read Secret hub-signing-keys"))?;
        let mut keys = SigningKeys::read(secret.data.as_ref().unwrap_or(&Default::default()))?;
        change(&mut keys)?;
        secret.data = Some(keys.to_data());
        match secrets
            .replace(SIGNING_KEYS, &PostParams::default(), &secret)
            .await
        {
            Ok(_) => break keys,
            Err(kube::Error::Api(status)) if status.code == 409 && tries < TRIES => tries += 1,
            Err(error) => return Err(failed("write Secret hub-signing-keys")(error)),
        }
    };
    take(host, &keys).await?;
    Ok(keys)
}

/// Makes sure that this replica signs, with the keys that there are now.
///
/// # Errors
/// [`TrustError`].
pub async fn signing(host: &Host) -> Result<SigningKeys, TrustError> {
    let keys = ensure(&host.client, host.clock.now()).await?;
    take(host, &keys).await?;
    Ok(keys)
}

async fn take(host: &Host, keys: &SigningKeys) -> Result<(), TrustError> {
    let signer = host.registry.signer();
    let issuer = match signer.keys() {
        Some((_, same)) if same.records() == keys.records() => return Ok(()),
        Some((issuer, _)) => issuer,
        None => super::issuer_of(&host.client).await?,
    };
    signer.take(&issuer, keys.clone())?;
    Ok(())
}

/// A rotation that has begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rotation {
    /// The id of the key that will sign next.
    pub next: String,
    /// With `force`: who did not follow the keys before, and is not waited for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub behind: Option<Vec<String>>,
}

/// Makes the key that will sign next; the reconciler does the rest. With `force` it signs although members do not accept it, also where that rotation is
/// under way already.
///
/// # Errors
/// [`TrustError::Keys`] with [`KeysError::UnderWay`] while a rotation goes on.
pub async fn rotate(host: &Host, force: bool) -> Result<Rotation, TrustError> {
    let before = signing(host).await?;
    let behind = if force {
        Some(behind(&before, &survey(host).await))
    } else {
        None
    };
    let now = host.clock.now();
    let keys = change(host, |keys| match keys.make_next(now) {
        Ok(()) if !force => Ok(()),
        Ok(()) | Err(KeysError::UnderWay) if force => keys.force(),
        made => made,
    })
    .await?;
    let next = keys.records().last();
    Ok(Rotation {
        next: next.map(|key| key.id.clone()).unwrap_or_default(),
        behind,
    })
}

/// Who does not accept all keys that there are.
fn behind(keys: &SigningKeys, surveys: &[Survey]) -> Vec<String> {
    let accepts = |survey: &&Survey| {
        let accepts = survey.keys.accepts.as_ref();
        accepts.is_some_and(|accepts| keys.records().iter().all(|key| accepts.contains(&key.id)))
    };
    let behind = surveys.iter().filter(|survey| !accepts(survey));
    behind.map(|survey| survey.keys.cluster.clone()).collect()
}
