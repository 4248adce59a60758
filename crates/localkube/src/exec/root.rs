//! A folder that cannot be left: every path is resolved below it by the kernel, links and `..` included.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, openat, openat2, statat,
};

/// The folder, held open.
pub struct Root {
    folder: OwnedFd,
}

/// One entry of a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub name: String,
    pub kind: FileType,
    pub size: u64,
    pub mode: u32,
}

impl Root {
    /// Opens the folder itself, which must not be a link.
    ///
    /// # Errors
    /// When it cannot be opened as a folder.
    pub fn open(path: &Path) -> io::Result<Root> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = openat(CWD, path, flags, Mode::empty())?;
        Ok(Root { folder })
    }

    fn resolve(&self, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let path = if path.is_empty() { "/" } else { path };
        Ok(openat2(
            &self.folder,
            path,
            flags | OFlags::CLOEXEC,
            Mode::empty(),
            resolve,
        )?)
    }

    /// Opens a regular file for reading.
    ///
    /// # Errors
    /// As `open(2)`; a device, pipe or socket counts as not permitted.
    pub fn file(&self, path: &str) -> io::Result<File> {
        // Not blocking: opening a pipe must not wait for a writer.
        let fd = self.resolve(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
        let file = File::from(fd);
        let kind = file.metadata()?;
        if kind.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        if !kind.is_file() {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        Ok(file)
    }

    /// Whether the path leads to a folder.
    ///
    /// # Errors
    /// As `open(2)`.
    pub fn check_folder(&self, path: &str) -> io::Result<()> {
        self.resolve(path, OFlags::PATH | OFlags::DIRECTORY)
            .map(drop)
    }

    /// What lies at a path: the entries of a folder by name, or `None` for anything else that exists.
    ///
    /// # Errors
    /// As `open(2)`.
    pub fn list(&self, path: &str) -> io::Result<Option<Vec<Entry>>> {
        let fd = match self.resolve(path, OFlags::RDONLY | OFlags::DIRECTORY) {
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                self.resolve(path, OFlags::PATH)?;
                return Ok(None);
            }
            opened => opened?,
        };
        let mut entries = Vec::new();
        for entry in Dir::read_from(&fd)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let stat = statat(&fd, name, AtFlags::SYMLINK_NOFOLLOW)?;
            entries.push(Entry {
                name: name.to_string_lossy().into_owned(),
                kind: FileType::from_raw_mode(stat.st_mode),
                size: u64::try_from(stat.st_size).unwrap_or(0),
                mode: stat.st_mode,
            });
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Some(entries))
    }
}

/// `path` as seen from `folder`, without `.` and `..`, always absolute.
pub fn absolute(folder: &str, path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    let from = if path.starts_with('/') { "" } else { folder };
    for part in from.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            name => parts.push(name),
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Read;
    use std::os::unix::fs::symlink;

    const SECRET: &str = "outside";

    /// A root beside a secret file, with links that try to lead to it.
    fn arena(links: &[(String, String)]) -> (tempfile::TempDir, Root) {
        let arena = tempfile::tempdir().unwrap();
        std::fs::write(arena.path().join("secret"), SECRET).unwrap();
        let root = arena.path().join("root");
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        std::fs::write(root.join("a/b/file"), "inside").unwrap();
        for (name, target) in links {
            let target = target.replace("ARENA", arena.path().to_str().unwrap());
            let _ = symlink(target, root.join("a").join(name));
        }
        let opened = Root::open(&root).unwrap();
        (arena, opened)
    }

    fn part() -> impl Strategy<Value = String> {
        prop_oneof![
            Just("..".to_owned()),
            Just(".".to_owned()),
            Just(String::new()),
            Just("a".to_owned()),
            Just("b".to_owned()),
            Just("file".to_owned()),
            Just("secret".to_owned()),
            Just("x".to_owned()),
            Just("y".to_owned()),
            Just("root".to_owned()),
        ]
    }

    fn path() -> impl Strategy<Value = String> {
        (any::<bool>(), proptest::collection::vec(part(), 0..9)).prop_map(|(absolute, parts)| {
            let start = if absolute { "/" } else { "" };
            format!("{start}{}", parts.join("/"))
        })
    }

    fn target() -> impl Strategy<Value = String> {
        prop_oneof![
            path(),
            Just("ARENA/secret".to_owned()),
            Just("ARENA".to_owned()),
            Just("/proc/self/root".to_owned()),
            Just("/proc/self/cwd".to_owned()),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn no_path_and_no_link_leads_out(
            x in target(), y in target(), paths in proptest::collection::vec(path(), 1..20),
        ) {
            let (_arena, root) = arena(&[("x".to_owned(), x), ("y".to_owned(), y)]);
            for path in paths {
                if let Ok(mut file) = root.file(&path) {
                    let mut text = String::new();
                    file.read_to_string(&mut text).unwrap();
                    prop_assert_ne!(text, SECRET);
                }
                if let Ok(Some(entries)) = root.list(&path) {
                    prop_assert!(!entries.iter().any(|entry| entry.name == "secret"), "{}", path);
                }
            }
        }
    }

    #[test]
    fn what_is_inside_can_be_read_through_links() {
        let links = [
            ("x".to_owned(), "/a/b".to_owned()),
            ("y".to_owned(), "../../../a/b".to_owned()),
        ];
        let (_arena, root) = arena(&links);
        for path in ["a/b/file", "/a/x/file", "a/y/file", "../a/b/file"] {
            let mut text = String::new();
            root.file(path).unwrap().read_to_string(&mut text).unwrap();
            assert_eq!(text, "inside", "{path}");
        }
        assert!(root.list("/a/b/file").unwrap().is_none());
    }

    #[test]
    fn paths_are_made_absolute() {
        let table = [
            ("/", "a", "/a"),
            ("/a", "..", "/"),
            ("/a", "../../..", "/"),
            ("/a/b", "./c/", "/a/b/c"),
            ("/a", "/x", "/x"),
        ];
        for (folder, path, expected) in table {
            assert_eq!(absolute(folder, path), expected);
        }
    }
}
