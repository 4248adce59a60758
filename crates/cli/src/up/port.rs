//! The port of the host's address, and who else may hold it.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};

use crate::failure::Failure;

/// The wanted port if it is free, or a free one for 0.
pub fn choose(wanted: u16) -> Result<u16, Failure> {
    match listen(wanted) {
        Ok(port) => Ok(port),
        Err(error) => {
            let who = match holder(wanted) {
                Some(name) => format!(" by {name}"),
                None => String::new(),
            };
            let what = match error.kind() {
                std::io::ErrorKind::AddrInUse => format!("Port {wanted} is taken{who}"),
                _ => format!("Port {wanted} cannot be used"),
            };
            Err(Failure::new(
                what,
                "Choose another with --port; --port 0 takes a free one.",
            )
            .because(error))
        }
    }
}

/// The port that was used before if it is still free, else one that is.
pub fn again(before: Option<u16>) -> Option<u16> {
    before.and_then(|port| listen(port).ok())
}

fn listen(port: u16) -> std::io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, port))?
        .local_addr()?
        .port())
}

/// `name (process 123)` of whoever listens on this port, as far as this user may see.
fn holder(port: u16) -> Option<String> {
    let inode = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .find_map(|table| Some(listening_inode(&table, port)?.to_owned()))?;
    let link = format!("socket:[{inode}]");
    let processes = fs::read_dir("/proc").ok()?.flatten();
    for process in processes {
        let Some(id) = process
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        let Ok(files) = fs::read_dir(process.path().join("fd")) else {
            continue;
        };
        let holds = files.flatten().any(|file| {
            fs::read_link(file.path()).is_ok_and(|target| target.as_os_str() == link.as_str())
        });
        if holds {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!("{} (process {id})", name.trim()));
        }
    }
    None
}

/// The socket in state LISTEN (0A) with this local port, in the kernel's table.
fn listening_inode(table: &str, port: u16) -> Option<&str> {
    let wanted = format!("{port:04X}");
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let local = fields.nth(1)?;
        let state = fields.nth(1)?;
        let inode = fields.nth(5)?;
        (state == "0A" && local.rsplit(':').next() == Some(wanted.as_str())).then_some(inode)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_names_who_holds_it() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let text = choose(port).unwrap_err().to_string();
        assert!(
            text.starts_with(&format!("Port {port} is taken by ")),
            "{text}"
        );
        assert!(
            text.contains(&format!("process {}", std::process::id())),
            "{text}"
        );
        assert!(text.contains("--port 0"), "{text}");
        assert_eq!(again(Some(port)), None);
        drop(listener);
        assert_eq!(choose(port).unwrap(), port);
        assert_ne!(choose(0).unwrap(), 0);
    }
}
