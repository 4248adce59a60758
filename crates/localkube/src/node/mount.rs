//! From a Pod's volumes to files: looks up what they refer to and writes them below the Pod's root.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{
    ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, ProjectedVolumeSource, Secret,
    ServiceAccount, ServiceAccountTokenProjection, Volume, VolumeMount,
};
use kube::api::{Api, PostParams};

use super::environment::{Downward, Sources};
use super::volume::{self, Files};

/// Where Pods find their service account.
pub const ACCOUNT_FOLDER: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const MODE: i32 = 0o644;

/// Why a Pod's volumes are not there yet.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text that kubelet's FailedMount event shows.
    #[error("MountVolume.SetUp failed for volume {volume:?} : {why}")]
    Content { volume: String, why: String },
    #[error("write the files of volume {volume:?}")]
    Write {
        volume: String,
        #[source]
        source: io::Error,
    },
    #[error("read what the pod refers to")]
    Read(#[source] kube::Error),
}

/// A service-account token and when it should be replaced.
#[derive(Clone)]
pub struct Token {
    pub text: String,
    pub renew_at: jiff::Timestamp,
}

/// Tokens of a Pod by audience and lifetime.
pub type Tokens = BTreeMap<(String, i64), Token>;

/// Reads every ConfigMap and Secret that the Pod names in environments and volumes.
pub async fn sources(client: &kube::Client, pod: &Pod) -> Result<Sources, Error> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let (maps, secrets) = names(pod);
    let mut found = Sources::default();
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    for name in maps {
        let object = api.get_opt(&name).await.map_err(Error::Read)?;
        found.config_maps.insert(name, object);
    }
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    for name in secrets {
        let object = api.get_opt(&name).await.map_err(Error::Read)?;
        found.secrets.insert(name, object);
    }
    Ok(found)
}

/// Names of the ConfigMaps and Secrets that a Pod refers to.
pub fn names(pod: &Pod) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut maps, mut secrets) = (BTreeSet::new(), BTreeSet::new());
    let Some(spec) = &pod.spec else {
        return (maps, secrets);
    };
    for container in &spec.containers {
        for from in container.env_from.iter().flatten() {
            maps.extend(from.config_map_ref.iter().map(|r| r.name.clone()));
            secrets.extend(from.secret_ref.iter().map(|r| r.name.clone()));
        }
        for source in container
            .env
            .iter()
            .flatten()
            .filter_map(|e| e.value_from.as_ref())
        {
            maps.extend(source.config_map_key_ref.iter().map(|r| r.name.clone()));
            secrets.extend(source.secret_key_ref.iter().map(|r| r.name.clone()));
        }
    }
    for volume in spec.volumes.iter().flatten() {
        maps.extend(volume.config_map.iter().map(|v| v.name.clone()));
        secrets.extend(volume.secret.iter().filter_map(|v| v.secret_name.clone()));
        let projected = volume
            .projected
            .iter()
            .flat_map(|p| p.sources.iter().flatten());
        for source in projected {
            maps.extend(source.config_map.iter().map(|v| v.name.clone()));
            secrets.extend(source.secret.iter().map(|v| v.name.clone()));
        }
    }
    (maps, secrets)
}

/// Everything that content is made from.
pub struct Content<'a> {
    pub downward: Downward<'a>,
    pub sources: &'a Sources,
    pub tokens: &'a Tokens,
    /// PEM of the API's CA.
    pub root_ca: &'a str,
}

/// The volumes of a Pod, with one for its service account if nobody put one there.
pub fn volumes(pod: &Pod) -> (Vec<Volume>, Vec<VolumeMount>) {
    let Some(spec) = &pod.spec else {
        return (Vec::new(), Vec::new());
    };
    let mut volumes = spec.volumes.clone().unwrap_or_default();
    let mut mounts: Vec<VolumeMount> = Vec::new();
    for mount in spec
        .containers
        .iter()
        .flat_map(|c| c.volume_mounts.iter().flatten())
    {
        if !mounts.contains(mount) {
            mounts.push(mount.clone());
        }
    }
    let is_there = mounts
        .iter()
        .any(|mount| mount.mount_path.trim_end_matches('/') == ACCOUNT_FOLDER);
    if !is_there && spec.automount_service_account_token != Some(false) {
        let name = "kube-api-access-local".to_owned();
        mounts.push(VolumeMount {
            name: name.clone(),
            mount_path: ACCOUNT_FOLDER.to_owned(),
            ..VolumeMount::default()
        });
        let sources = serde_json::from_value(serde_json::json!([
            {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
            {"configMap": {"name": ROOT_CA, "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [
                {"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}},
            ]}},
        ]));
        volumes.push(Volume {
            name,
            projected: Some(ProjectedVolumeSource {
                default_mode: None,
                sources: sources.ok(),
            }),
            ..Volume::default()
        });
    }
    (volumes, mounts)
}

const ROOT_CA: &str = "kube-root-ca.crt";

/// The tokens that the volumes ask for.
pub fn token_requests(volumes: &[Volume]) -> Vec<&ServiceAccountTokenProjection> {
    volumes
        .iter()
        .flat_map(|volume| volume.projected.iter())
        .flat_map(|projected| projected.sources.iter().flatten())
        .filter_map(|source| source.service_account_token.as_ref())
        .collect()
}

/// Key of a token in [`Tokens`].
pub fn token_key(projection: &ServiceAccountTokenProjection) -> (String, i64) {
    (
        projection.audience.clone().unwrap_or_default(),
        projection.expiration_seconds.unwrap_or(3600),
    )
}

/// Asks for a token bound to the Pod. It is to be replaced when a fifth of its life is left.
pub async fn request_token(
    client: &kube::Client,
    pod: &Pod,
    (audience, lifetime): &(String, i64),
    now: jiff::Timestamp,
) -> Result<Token, kube::Error> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let account = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.service_account_name.as_deref())
        .filter(|name| !name.is_empty())
        .unwrap_or("default");
    let api: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let request = TokenRequest {
        spec: Some(TokenRequestSpec {
            audiences: Some(audience.clone())
                .filter(|audience| !audience.is_empty())
                .map(|audience| vec![audience]),
            expiration_seconds: Some(*lifetime),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: pod.metadata.name.clone(),
                uid: pod.metadata.uid.clone(),
            }),
        }),
        ..TokenRequest::default()
    };
    let made = api
        .create_token_request(account, &PostParams::default(), &request)
        .await?;
    let status = made.status.unwrap_or_default();
    let life = match &status.expiration_timestamp {
        Some(time) => time.0.as_second() - now.as_second(),
        None => *lifetime,
    };
    let renew_at = jiff::Timestamp::from_second(now.as_second() + (life * 4 / 5).max(10));
    Ok(Token {
        text: status.token.unwrap_or_default(),
        renew_at: renew_at.unwrap_or(now),
    })
}

/// Makes every mount below `root`, or brings those that hold content up to date. True if one changed.
pub fn write(
    root: &Path,
    pod: &Pod,
    content: &Content<'_>,
    now: jiff::Timestamp,
) -> Result<bool, Error> {
    let (volumes, mounts) = volumes(pod);
    let mut changed = false;
    let mut first: BTreeMap<&str, PathBuf> = BTreeMap::new();
    for mount in &mounts {
        let failed = |why: String| Error::Content {
            volume: mount.name.clone(),
            why,
        };
        let wrong = |source| Error::Write {
            volume: mount.name.clone(),
            source,
        };
        let Some(volume) = volumes.iter().find(|volume| volume.name == mount.name) else {
            return Err(failed("volume is not defined".to_owned()));
        };
        let Some(inner) = volume::below(&mount.mount_path) else {
            return Err(failed(format!("invalid mount path {:?}", mount.mount_path)));
        };
        let Some(files) = files(volume, content, pod).map_err(failed)? else {
            let target = match first.get(mount.name.as_str()) {
                Some(target) => target.clone(),
                None => volume::folder(root, &inner).map_err(wrong)?,
            };
            if first.contains_key(mount.name.as_str()) {
                link(root, &inner, &target).map_err(wrong)?;
            }
            first.insert(&mount.name, target);
            continue;
        };
        match mount.sub_path.as_deref().filter(|path| !path.is_empty()) {
            None => {
                let folder = volume::folder(root, &inner).map_err(wrong)?;
                changed |= volume::publish(&folder, &files, now).map_err(wrong)?;
            }
            Some(sub) => {
                // One file, as it was when the Pod started: Kubernetes does not update these either.
                let target = root.join(&inner);
                let (Some(parent), Some((bytes, _))) = (inner.parent(), files.get(Path::new(sub)))
                else {
                    return Err(failed(format!("no file {sub:?} for subPath")));
                };
                volume::folder(root, parent).map_err(wrong)?;
                if std::fs::symlink_metadata(&target).is_err() {
                    std::fs::write(&target, bytes).map_err(wrong)?;
                }
            }
        }
    }
    Ok(changed)
}

/// A second place for an emptyDir: a link that stays below the root.
fn link(root: &Path, inner: &Path, target: &Path) -> io::Result<()> {
    let path = root.join(inner);
    if std::fs::symlink_metadata(&path).is_ok() {
        return Ok(());
    }
    let parent = inner.parent().unwrap_or(Path::new(""));
    volume::folder(root, parent)?;
    let up = parent.components().map(|_| "..").collect::<PathBuf>();
    let target = target.strip_prefix(root).unwrap_or(target);
    std::os::unix::fs::symlink(up.join(target), path)
}

/// The files of a volume; `None` for one that starts empty and belongs to the Pod.
fn files(volume: &Volume, content: &Content<'_>, pod: &Pod) -> Result<Option<Files>, String> {
    let mut files = Files::new();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    if let Some(source) = &volume.config_map {
        let mode = source.default_mode;
        let optional = source.optional == Some(true);
        add_map(
            &mut files,
            content,
            &source.name,
            source.items.as_ref(),
            optional,
            mode,
            namespace,
        )?;
    } else if let Some(source) = &volume.secret {
        let name = source.secret_name.clone().unwrap_or_default();
        let mode = source.default_mode;
        let optional = source.optional == Some(true);
        add_secret(
            &mut files,
            content,
            &name,
            source.items.as_ref(),
            optional,
            mode,
            namespace,
        )?;
    } else if let Some(source) = &volume.downward_api {
        add_downward(
            &mut files,
            content,
            source.items.as_ref(),
            source.default_mode,
        )?;
    } else if let Some(projected) = &volume.projected {
        let mode = projected.default_mode;
        for source in projected.sources.iter().flatten() {
            if let Some(map) = &source.config_map {
                let optional = map.optional == Some(true);
                add_map(
                    &mut files,
                    content,
                    &map.name,
                    map.items.as_ref(),
                    optional,
                    mode,
                    namespace,
                )?;
            }
            if let Some(secret) = &source.secret {
                let optional = secret.optional == Some(true);
                add_secret(
                    &mut files,
                    content,
                    &secret.name,
                    secret.items.as_ref(),
                    optional,
                    mode,
                    namespace,
                )?;
            }
            if let Some(downward) = &source.downward_api {
                add_downward(&mut files, content, downward.items.as_ref(), mode)?;
            }
            if let Some(token) = &source.service_account_token {
                let found = content
                    .tokens
                    .get(&token_key(token))
                    .ok_or("failed to fetch token")?;
                put(
                    &mut files,
                    &token.path,
                    found.text.clone().into_bytes(),
                    Some(0o600),
                )?;
            }
        }
    } else {
        return Ok(None);
    }
    Ok(Some(files))
}

fn put(files: &mut Files, path: &str, bytes: Vec<u8>, mode: Option<i32>) -> Result<(), String> {
    let inner = volume::below(path).ok_or_else(|| format!("invalid path {path:?}"))?;
    if inner.to_string_lossy().starts_with("..") {
        return Err(format!("invalid path {path:?}"));
    }
    let mode = u32::try_from(mode.unwrap_or(MODE)).unwrap_or(0o644) & 0o777;
    files.insert(inner, (bytes, mode));
    Ok(())
}

fn add_map(
    files: &mut Files,
    content: &Content<'_>,
    name: &str,
    items: Option<&Vec<KeyToPath>>,
    optional: bool,
    mode: Option<i32>,
    namespace: &str,
) -> Result<(), String> {
    let Some(map) = content
        .sources
        .config_maps
        .get(name)
        .and_then(Option::as_ref)
    else {
        if name == ROOT_CA {
            // The controller that makes this map may be slower than the first Pod.
            return put(files, "ca.crt", content.root_ca.as_bytes().to_vec(), mode);
        }
        return if optional {
            Ok(())
        } else {
            Err(format!("configmap {name:?} not found"))
        };
    };
    let text = map
        .data
        .iter()
        .flatten()
        .map(|(k, v)| (k.as_str(), v.as_bytes()));
    let binary = map
        .binary_data
        .iter()
        .flatten()
        .map(|(k, v)| (k.as_str(), v.0.as_slice()));
    let object = format!("configmap {namespace}/{name}");
    add_keys(
        files,
        text.chain(binary).collect(),
        items,
        optional,
        mode,
        &object,
    )
}

fn add_secret(
    files: &mut Files,
    content: &Content<'_>,
    name: &str,
    items: Option<&Vec<KeyToPath>>,
    optional: bool,
    mode: Option<i32>,
    namespace: &str,
) -> Result<(), String> {
    let Some(secret) = content.sources.secrets.get(name).and_then(Option::as_ref) else {
        return if optional {
            Ok(())
        } else {
            Err(format!("secret {name:?} not found"))
        };
    };
    let data = secret.data.iter().flatten();
    let data = data.map(|(k, v)| (k.as_str(), v.0.as_slice())).collect();
    let object = format!("secret {namespace}/{name}");
    add_keys(files, data, items, optional, mode, &object)
}

fn add_keys(
    files: &mut Files,
    data: BTreeMap<&str, &[u8]>,
    items: Option<&Vec<KeyToPath>>,
    optional: bool,
    mode: Option<i32>,
    object: &str,
) -> Result<(), String> {
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        for (key, bytes) in data {
            put(files, key, bytes.to_vec(), mode)?;
        }
        return Ok(());
    };
    for item in items {
        match data.get(item.key.as_str()) {
            Some(bytes) => put(files, &item.path, bytes.to_vec(), item.mode.or(mode))?,
            None if optional => {}
            None => {
                return Err(format!(
                    "references non-existent {} key: {}",
                    object, item.key
                ));
            }
        }
    }
    Ok(())
}

fn add_downward(
    files: &mut Files,
    content: &Content<'_>,
    items: Option<&Vec<DownwardAPIVolumeFile>>,
    mode: Option<i32>,
) -> Result<(), String> {
    for item in items.into_iter().flatten() {
        let text = match &item.field_ref {
            Some(field) => content
                .downward
                .field(&field.field_path)
                .ok_or_else(|| format!("unsupported fieldPath: {}", field.field_path))?,
            None => "0".to_owned(),
        };
        put(files, &item.path, text.into_bytes(), item.mode.or(mode))?;
    }
    Ok(())
}
