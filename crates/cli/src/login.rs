//! The stored login: where it lies, who may read it, and how its token is kept fresh.

use std::io::Write;
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use crate::failure::{Exit, Failure};

/// Seconds before its end at which a token is renewed.
const MARGIN: i64 = 60;

/// A login as it is stored. It has no `Debug`: it holds tokens.
#[derive(Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Login {
    /// The host's address, without a trailing slash.
    pub address: String,
    /// Who logged in.
    pub user: String,
    /// Shown on every request.
    pub access_token: String,
    /// Buys a new access token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh_token: Option<String>,
    /// When the access token ends, in seconds since 1970; absent if it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<i64>,
}

impl Login {
    /// Whether the token should be renewed before it is used at `now` (seconds since 1970).
    pub fn is_stale(&self, now: i64) -> bool {
        self.expires_at.is_some_and(|end| end - MARGIN <= now)
    }

    /// The token, for a request.
    pub fn token(&self) -> SecretString {
        self.access_token.clone().into()
    }
}

/// The file that `KAH_CONFIG` names, else one in the user's configuration folder.
pub fn path(environment: impl Fn(&str) -> Option<String>) -> Result<PathBuf, Failure> {
    let get = |name: &str| environment(name).filter(|value| !value.is_empty());
    if let Some(named) = get("KAH_CONFIG") {
        return Ok(named.into());
    }
    let folder = match (get("XDG_CONFIG_HOME"), get("HOME")) {
        (Some(folder), _) => PathBuf::from(folder),
        (None, Some(home)) => Path::new(&home).join(".config"),
        (None, None) => {
            return Err(Failure::new(
                "find the configuration folder: HOME is not set",
                "Name a file in KAH_CONFIG.",
            ));
        }
    };
    Ok(folder.join("kubeaihub").join("login.json"))
}

/// Reads the login; its absence says how to make one.
pub fn load(path: &Path) -> Result<Login, Failure> {
    let next = "Log in with `kah login ADDRESS --user NAME`.";
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Failure::new("There is no login.", next).exit(Exit::Login));
        }
        Err(error) => {
            return Err(
                Failure::new(format!("read the login in {}", path.display()), next)
                    .because(error)
                    .exit(Exit::Login),
            );
        }
    };
    serde_json::from_slice(&text).map_err(|error| {
        Failure::new(format!("understand the login in {}", path.display()), next)
            .because(error)
            .exit(Exit::Login)
    })
}

/// Stores the login so that only its owner can read it.
pub fn store(path: &Path, login: &Login) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(login).map_err(std::io::Error::other);
    text.and_then(|text| write_private(path, text.as_bytes()))
        .map_err(|error| {
            Failure::new(
                format!("store the login in {}", path.display()),
                "Name another file in KAH_CONFIG.",
            )
            .because(error)
        })
}

/// Forgets the login. Says whether there was one.
pub fn remove(path: &Path) -> Result<bool, Failure> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Failure::new(
            format!("remove {}", path.display()),
            "Remove the file by hand.",
        )
        .because(error)),
    }
}

/// Replaces a file as a whole; from its first byte on only its owner can read it.
pub fn write_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
    let folder = path.parent().filter(|folder| *folder != Path::new(""));
    if let Some(folder) = folder {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let fresh = path.with_file_name(name);
    let _ = std::fs::remove_file(&fresh);
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)
}

/// The answer of the token endpoint, as far as a client needs it.
#[derive(Deserialize)]
pub struct Issued {
    access_token: String,
    #[serde(default)]
    refresh_token: Option<String>,
    #[serde(default)]
    expires_in: Option<i64>,
}

impl Issued {
    /// The login that these tokens make at `now` (seconds since 1970).
    pub fn into_login(self, address: &str, user: &str, now: i64) -> Login {
        Login {
            address: address.to_owned(),
            user: user.to_owned(),
            access_token: self.access_token,
            refresh_token: self.refresh_token,
            expires_at: self.expires_in.map(|seconds| now.saturating_add(seconds)),
        }
    }
}

/// Reads a password: one line of standard input, or a prompt without echo.
pub fn password(from_stdin: bool) -> Result<SecretString, Failure> {
    use std::io::{BufRead, IsTerminal};
    let next =
        "Give it on standard input: `kah login ADDRESS --user NAME --password-stdin < FILE`.";
    if from_stdin {
        let mut line = String::new();
        std::io::stdin()
            .lock()
            .read_line(&mut line)
            .map_err(|error| Failure::new("read the password", next).because(error))?;
        let password = line.trim_end_matches(['\r', '\n']);
        if password.is_empty() {
            return Err(Failure::new("Standard input held no password.", next));
        }
        return Ok(password.into());
    }
    if !std::io::stdin().is_terminal() {
        return Err(Failure::new(
            "There is no terminal to ask for a password.",
            next,
        ));
    }
    rpassword::prompt_password("Password: ")
        .map(SecretString::from)
        .map_err(|error| Failure::new("read the password", next).because(error))
}

/// The body of a password grant.
pub fn password_grant(user: &str, password: &SecretString) -> Vec<(&'static str, String)> {
    vec![
        ("grant_type", "password".into()),
        ("username", user.into()),
        ("password", password.expose_secret().into()),
    ]
}

/// The body of a refresh.
pub fn refresh_grant(token: &str) -> Vec<(&'static str, String)> {
    vec![
        ("grant_type", "refresh_token".into()),
        ("refresh_token", token.into()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login() -> Login {
        Login {
            address: "http://127.0.0.1:1".into(),
            user: "admin".into(),
            access_token: "a".into(),
            refresh_token: None,
            expires_at: Some(1000),
        }
    }

    #[test]
    fn the_file_is_where_the_environment_says() {
        let table = [
            (vec![("KAH_CONFIG", "/x"), ("HOME", "/h")], "/x"),
            (
                vec![("XDG_CONFIG_HOME", "/c"), ("HOME", "/h")],
                "/c/kubeaihub/login.json",
            ),
            (
                vec![("KAH_CONFIG", ""), ("HOME", "/h")],
                "/h/.config/kubeaihub/login.json",
            ),
        ];
        for (environment, expected) in table {
            let found = path(|name| {
                let value = environment.iter().find(|(key, _)| *key == name)?.1;
                Some(value.to_owned())
            });
            assert_eq!(found.unwrap(), Path::new(expected));
        }
        assert!(path(|_| None).is_err());
    }

    #[test]
    fn only_the_owner_reads_the_login() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/er/login.json");
        store(&path, &login()).unwrap();
        store(&path, &login()).unwrap();
        assert!(load(&path).unwrap() == login());
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(remove(&path).unwrap());
        assert!(!remove(&path).unwrap());
        assert_eq!(load(&path).err().map(|error| error.code()), Some(4));
    }

    #[test]
    fn tokens_are_renewed_before_they_end() {
        assert!(!login().is_stale(900));
        assert!(login().is_stale(940));
        let endless = Login {
            expires_at: None,
            ..login()
        };
        assert!(!endless.is_stale(i64::MAX));
    }
}
