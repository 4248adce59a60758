//! The folder in which a fleet is kept.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use rand::RngExt;

use super::standing::Record;
use crate::failure::Failure;
use crate::login::write_private;

/// Letters and digits that are hard to confuse.
const ALPHABET: &[u8] = b"abcdefghjkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789";

/// A data folder that this process alone uses.
pub struct DataDir {
    path: PathBuf,
    /// Released by the system when the process ends, however it ends.
    _lock: File,
}

/// The folder that was named, else one in the user's data folder.
pub fn path(
    named: Option<&Path>,
    environment: impl Fn(&str) -> Option<String>,
) -> Result<PathBuf, Failure> {
    let get = |name: &str| environment(name).filter(|value| !value.is_empty());
    let folder = match (named, get("XDG_DATA_HOME"), get("HOME")) {
        (Some(folder), _, _) => folder.to_owned(),
        (None, Some(folder), _) => Path::new(&folder).join("kubeaihub"),
        (None, None, Some(home)) => Path::new(&home).join(".local/share/kubeaihub"),
        (None, None, None) => {
            return Err(Failure::new(
                "find the data folder: HOME is not set",
                "Name a folder with --data-dir.",
            ));
        }
    };
    // Kubeconfig paths are printed, and must be good from any folder.
    std::path::absolute(&folder).map_err(|error| {
        Failure::new(
            format!("find {}", folder.display()),
            "Name another folder with --data-dir.",
        )
        .because(error)
    })
}

impl DataDir {
    /// Makes the folder, readable by its owner alone, and takes its lock.
    pub fn open(path: PathBuf) -> Result<Self, Failure> {
        use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
        let shown = path.display().to_string();
        let failed = |error: std::io::Error| {
            Failure::new(
                format!("open the data folder {shown}"),
                "Name another folder with --data-dir.",
            )
            .because(error)
        };
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .map_err(failed)?;
        let lock = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path.join("lock"))
            .map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => Ok(DataDir { path, _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(Failure::new(
                format!("The data folder {shown} is in use by another `kah up`."),
                "Stop that one, or name another folder with --data-dir (and another --port).",
            )),
            Err(TryLockError::Error(error)) => Err(failed(error)),
        }
    }

    /// Where one cluster keeps its state.
    pub fn cluster(&self, name: &str) -> PathBuf {
        self.path.join("clusters").join(name)
    }

    /// Where the kubeconfig of one cluster lies.
    pub fn kubeconfig(&self, name: &str) -> PathBuf {
        self.path.join(format!("{name}.yaml"))
    }

    /// Writes a file that only its owner can read.
    pub fn write(&self, path: &Path, text: &str) -> Result<(), Failure> {
        write_private(path, text.as_bytes()).map_err(|error| {
            Failure::new(
                format!("write {}", path.display()),
                "Check the space and rights of that folder.",
            )
            .because(error)
        })
    }

    /// Where the initial password lies.
    pub fn password_file(&self) -> PathBuf {
        self.path.join("admin-password")
    }

    /// Where the authority of the host's address keeps its keys.
    pub fn authority_folder(&self) -> PathBuf {
        self.path.join("authority")
    }

    /// Where that authority's certificate lies, for clients.
    pub fn authority_file(&self) -> PathBuf {
        self.path.join("hub-ca.crt")
    }

    /// The initial password: made at the first start, kept from then on.
    pub fn password(&self) -> Result<String, Failure> {
        let path = self.password_file();
        if let Ok(text) = std::fs::read_to_string(&path)
            && !text.trim().is_empty()
        {
            return Ok(text.trim().to_owned());
        }
        let password = fresh_password();
        self.write(&path, &format!("{password}\n"))?;
        Ok(password)
    }

    /// API ports that were used before, by cluster.
    pub fn ports(&self) -> BTreeMap<String, u16> {
        let text = std::fs::read(self.path.join("ports.json")).unwrap_or_default();
        // What cannot be read is chosen anew.
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// Keeps the API ports for the next start.
    pub fn keep_ports(&self, ports: &BTreeMap<String, u16>) -> Result<(), Failure> {
        let text = serde_json::to_string(ports).unwrap_or_default();
        self.write(&self.path.join("ports.json"), &text)
    }

    /// Which members were joined to the end by earlier starts.
    pub fn joined(&self) -> Record {
        let text = std::fs::read(self.path.join("joined.json")).unwrap_or_default();
        // Of a folder of an older version: whoever has a Cluster is noted at this start.
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// Keeps that for the next start.
    pub fn keep_joined(&self, record: &Record) -> Result<(), Failure> {
        let text = serde_json::to_string(record).unwrap_or_default();
        self.write(&self.path.join("joined.json"), &text)
    }

    /// Members that an earlier start made and that are numbered above `members`.
    pub fn left_out(&self, members: u16) -> Vec<String> {
        let entries = std::fs::read_dir(self.path.join("clusters"))
            .into_iter()
            .flatten()
            .flatten();
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| {
                let number = name
                    .strip_prefix("member-")
                    .and_then(|number| number.parse::<u16>().ok());
                number.is_some_and(|number| number > members)
            })
            .collect();
        names.sort();
        names
    }
}

/// `length` random letters and digits.
pub fn random_text(length: usize) -> String {
    let mut random = rand::rng();
    (0..length)
        .filter_map(|_| ALPHABET.get(random.random_range(0..ALPHABET.len())))
        .map(|byte| char::from(*byte))
        .collect()
}

/// 16 characters with a lower-case letter, an upper-case letter and a digit, as the User's schema asks.
fn fresh_password() -> String {
    loop {
        let text = random_text(16);
        let has = |kind: fn(&char) -> bool| text.chars().any(|letter| kind(&letter));
        if has(char::is_ascii_lowercase)
            && has(char::is_ascii_uppercase)
            && has(char::is_ascii_digit)
        {
            return text;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data");
        let first = DataDir::open(path.clone()).unwrap();
        let refused = DataDir::open(path.clone())
            .err()
            .map(|error| error.to_string());
        assert!(refused.unwrap().contains("in use by another"));
        drop(first);
        assert!(DataDir::open(path).is_ok());
    }

    #[test]
    fn the_password_is_made_once_and_is_private() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let data = DataDir::open(folder.path().join("data")).unwrap();
        let password = data.password().unwrap();
        assert_eq!(data.password().unwrap(), password);
        assert!(password.len() == 16 && password.chars().any(|c| c.is_ascii_digit()));
        let mode = std::fs::metadata(data.password_file())
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn members_left_out_are_known() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataDir::open(folder.path().to_owned()).unwrap();
        for name in ["host", "member-1", "member-2", "member-3"] {
            std::fs::create_dir_all(data.cluster(name)).unwrap();
        }
        assert_eq!(data.left_out(1), ["member-2", "member-3"]);
        assert!(data.left_out(3).is_empty());
    }
}
