//! Volumes of a Pod as folders below its root, updated as a kubelet does: the files lie in a dated folder,
//! `..data` points to it, and a change swaps that one link.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::{Component, Path, PathBuf};

/// Content of a volume: paths below its mount point, each with bytes and permission bits.
pub type Files = BTreeMap<PathBuf, (Vec<u8>, u32)>;

const DATA: &str = "..data";
const NEXT: &str = "..data_tmp";

/// A path from a Pod spec as a path below some folder: no part of it leads out.
/// `None` if it would, or if it names nothing.
pub fn below(path: &str) -> Option<PathBuf> {
    let mut inner = PathBuf::new();
    for part in Path::new(path).components() {
        match part {
            Component::Normal(name) => inner.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    (inner.components().next().is_some()).then_some(inner)
}

/// Makes a folder below `root` (whose parts exist as folders, never as links) and gives its path.
pub fn folder(root: &Path, inner: &Path) -> io::Result<PathBuf> {
    let mut path = root.to_owned();
    for part in inner.components() {
        path.push(part);
        match fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_dir() => {}
            Ok(_) => {
                return Err(io::Error::new(
                    io::ErrorKind::NotADirectory,
                    format!("{} is not a folder", path.display()),
                ));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::DirBuilder::new().mode(0o755).create(&path)?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(path)
}

/// Writes the content of a volume into `folder`, unless it is there already. Readers see all of the old
/// or all of the new content. True if something changed.
pub fn publish(folder: &Path, files: &Files, stamp: jiff::Timestamp) -> io::Result<bool> {
    let current = fs::read_link(folder.join(DATA)).ok();
    if let Some(current) = &current
        && current.components().count() == 1
        && read(&folder.join(current))? == contents(files)
    {
        return Ok(false);
    }
    let mut name = format!("..{}", stamp.strftime("%Y_%m_%d_%H_%M_%S%.9f"));
    while folder.join(&name).exists() {
        name.push('_');
    }
    let data = folder.join(&name);
    fs::DirBuilder::new().mode(0o755).create(&data)?;
    for (path, (bytes, mode)) in files {
        let target = data.join(path);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(*mode)
            .open(&target)?;
        io::Write::write_all(&mut file, bytes)?;
    }
    let next = folder.join(NEXT);
    match fs::remove_file(&next) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => symlink(&name, &next)?,
    }
    fs::rename(&next, folder.join(DATA))?;
    // Names at the top lead through `..data`; those of files that are gone are taken away afterwards.
    let tops: Vec<_> = files
        .keys()
        .filter_map(|path| path.components().next())
        .map(|part| part.as_os_str().to_owned())
        .collect();
    for top in &tops {
        let link = folder.join(top);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new(DATA).join(top), &link)?;
        }
    }
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let file = entry.file_name();
        let hidden = file.to_string_lossy().starts_with("..");
        if hidden || tops.contains(&file) || !entry.file_type()?.is_symlink() {
            continue;
        }
        fs::remove_file(entry.path())?;
    }
    if let Some(old) = current.filter(|old| old.components().count() == 1) {
        fs::remove_dir_all(folder.join(old)).or_else(ignore_absent)?;
    }
    Ok(true)
}

fn ignore_absent(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound {
        Ok(())
    } else {
        Err(error)
    }
}

fn contents(files: &Files) -> BTreeMap<PathBuf, Vec<u8>> {
    files
        .iter()
        .map(|(path, (bytes, _))| (path.clone(), bytes.clone()))
        .collect()
}

fn read(folder: &Path) -> io::Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(inner) = folders.pop() {
        let entries = match fs::read_dir(folder.join(&inner)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let path = inner.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                folders.push(path);
            } else {
                found.insert(path, fs::read(entry.path())?);
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    fn files(list: &[(&str, &str)]) -> Files {
        list.iter()
            .map(|(path, text)| (PathBuf::from(path), (text.as_bytes().to_vec(), 0o644)))
            .collect()
    }

    #[test]
    fn paths_never_lead_out() {
        assert_eq!(below("/etc/x"), Some(PathBuf::from("etc/x")));
        assert_eq!(below("a/./b"), Some(PathBuf::from("a/b")));
        for path in ["..", "/a/../b", "a/..", "/", ""] {
            assert_eq!(below(path), None, "{path}");
        }
    }

    #[test]
    fn a_change_swaps_everything_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_owned();
        let now = jiff::Timestamp::now();
        assert!(publish(&path, &files(&[("a", "0"), ("b", "0"), ("old", "x")]), now).unwrap());
        assert!(!publish(&path, &files(&[("a", "0"), ("b", "0"), ("old", "x")]), now).unwrap());
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut seen = 0;
                while !done.load(Ordering::Relaxed) {
                    // Through one resolved folder, both files are of the same time, unless it went away.
                    let data = path.join(fs::read_link(path.join(DATA)).unwrap());
                    let pair = (fs::read(data.join("a")), fs::read(data.join("b")));
                    if let (Ok(a), Ok(b)) = pair {
                        assert_eq!(a, b);
                        seen += 1;
                    }
                }
                seen
            });
            for round in 1..200 {
                let text = round.to_string();
                // A folder's name says when it was made; time moves between two changes.
                let later = now + jiff::SignedDuration::from_millis(round);
                publish(&path, &files(&[("a", &text), ("b", &text)]), later).unwrap();
            }
            done.store(true, Ordering::Relaxed);
            assert!(reader.join().unwrap() > 0);
        });
        assert_eq!(fs::read_to_string(path.join("a")).unwrap(), "199");
        assert!(fs::symlink_metadata(path.join("old")).is_err());
        let left = fs::read_dir(&path).unwrap().count();
        assert_eq!(left, 4, "a, b, ..data and one dated folder");
    }

    #[test]
    fn a_link_in_the_way_is_not_followed() {
        let folder_ = tempfile::tempdir().unwrap();
        symlink("/tmp", folder_.path().join("etc")).unwrap();
        assert!(folder(folder_.path(), Path::new("etc/x")).is_err());
    }
}
