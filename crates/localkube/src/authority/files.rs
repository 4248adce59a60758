//! An authority in a folder.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use jiff::Timestamp;
use rcgen::KeyPair;

use super::{Authority, AuthorityError, certificates, new_key};
use crate::service_account::TokenKey;

pub(super) fn open(folder: &Path, name: &str, now: Timestamp) -> Result<Authority, AuthorityError> {
    fs::create_dir_all(folder).map_err(at(folder))?;
    let (certificate_path, key_path) = (folder.join("ca.crt"), folder.join("ca.key"));
    let certificate = read(&certificate_path)?;
    let key = read(&key_path)?;

    let token_path = folder.join("sa.key");
    let token_key = match read(&token_path)? {
        Some(pem) => TokenKey::from_pem(&pem)?,
        None => {
            if key.is_some() {
                return Err(AuthorityError::Incomplete {
                    present: key_path,
                    missing: token_path,
                });
            }
            let key = TokenKey::generate()?;
            write(&token_path, key.private_pem(), 0o600)?;
            key
        }
    };
    let key = match key {
        Some(pem) => KeyPair::from_pem(&pem)?,
        None => {
            if certificate.is_some() {
                return Err(AuthorityError::Incomplete {
                    present: certificate_path,
                    missing: key_path,
                });
            }
            let key = new_key()?;
            write(&key_path, &key.serialize_pem(), 0o600)?;
            key
        }
    };

    // The subject and key of a kept authority never change, so that what it signed stays good.
    if let Some(pem) = certificate {
        let certificate = certificates::parse(&pem)?;
        if !certificates::ends_soon(&certificate, now) {
            return Authority::resume(pem, certificate, key, token_key);
        }
    }
    let authority = Authority::assemble(name, key, token_key, now)?;
    write(&certificate_path, authority.ca_pem(), 0o644)?;
    Ok(authority)
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> AuthorityError {
    let path = path.to_owned();
    move |source| AuthorityError::File { path, source }
}

fn read(path: &Path) -> Result<Option<String>, AuthorityError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(at(path)(error)),
    }
}

/// Written aside and moved, so that a crash leaves no half of a key; never readable by others in between.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), AuthorityError> {
    let aside = path.with_extension("new");
    match fs::remove_file(&aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(&aside)(error)),
        _ => {}
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
    #[cfg(not(unix))]
    let _ = mode;
    let mut file = options.open(&aside).map_err(at(&aside))?;
    file.write_all(text.as_bytes()).map_err(at(&aside))?;
    file.sync_all().map_err(at(&aside))?;
    fs::rename(&aside, path).map_err(at(path))
}
