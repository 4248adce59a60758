//! The built-in programs. They read files below the Pod's root, print and wait; nothing else.

use std::io::{self, Read};
use std::time::Duration;

use bytes::Bytes;
use rustix::fs::FileType;
use tokio::sync::mpsc;

use super::root::{Entry, Root, absolute};
use super::terminal::Input;
use super::words::{self, Join};

/// Where output goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

/// A shell with its folder, variables and streams.
pub struct Shell {
    pub root: Root,
    pub folder: String,
    pub variables: Vec<(String, String)>,
    pub input: Input,
    pub output: mpsc::Sender<(Stream, Bytes)>,
    /// Exit code of the last command.
    pub last: u8,
    /// Set by `exit`.
    pub left: bool,
}

const CHUNK: usize = 16 << 10;
const NOT_FOUND: u8 = 127;

impl Shell {
    /// Runs one command given as words and gives its exit code.
    pub async fn run(&mut self, words: &[String]) -> u8 {
        let Some((name, arguments)) = words.split_first() else {
            return 0;
        };
        let program = name
            .strip_prefix("/bin/")
            .or(name.strip_prefix("/usr/bin/"))
            .unwrap_or(name);
        match program {
            "true" | ":" => 0,
            "false" => 1,
            "echo" => self.echo(arguments).await,
            "env" | "printenv" => self.env(arguments).await,
            "pwd" => {
                let text = format!("{}\n", self.folder);
                self.print(text).await
            }
            "cd" => self.change(arguments).await,
            "ls" => self.list(arguments).await,
            "cat" => self.cat(arguments).await,
            "sleep" => self.sleep(arguments).await,
            "exit" => {
                self.left = true;
                match arguments.first().map(|code| code.parse::<i64>()) {
                    None => self.last,
                    Some(Ok(code)) => u8::try_from(code.rem_euclid(256)).unwrap_or(2),
                    Some(Err(_)) => {
                        self.complain("sh: exit: Illegal number\n".to_owned()).await;
                        2
                    }
                }
            }
            "sh" | "ash" | "bash" => self.shell(arguments).await,
            _ => {
                self.complain(format!("sh: {name}: not found\n")).await;
                NOT_FOUND
            }
        }
    }

    async fn shell(&mut self, arguments: &[String]) -> u8 {
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            match argument.as_str() {
                "-c" => {
                    let line = rest.next().cloned().unwrap_or_default();
                    let code = Box::pin(self.lines(&line)).await;
                    self.left = false;
                    return code;
                }
                "-i" | "-l" | "--login" => {}
                other => {
                    self.complain(format!("sh: can't open '{other}'\n")).await;
                    return NOT_FOUND;
                }
            }
        }
        let code = Box::pin(self.read_lines()).await;
        self.left = false;
        code
    }

    async fn read_lines(&mut self) -> u8 {
        loop {
            if self.input.is_terminal() {
                let prompt = format!("{} $ ", self.folder);
                if self.write(Stream::Stdout, prompt.into()).await.is_err() {
                    return self.last;
                }
            }
            let Some(line) = self.input.line(&self.output).await else {
                return self.last;
            };
            let line = String::from_utf8_lossy(&line).into_owned();
            self.last = self.lines(&line).await;
            if self.left {
                return self.last;
            }
        }
    }

    /// Runs a line of commands.
    pub async fn lines(&mut self, line: &str) -> u8 {
        let commands = match words::parse(line) {
            Ok(commands) => commands,
            Err(message) => {
                self.complain(format!("sh: {message}\n")).await;
                return 2;
            }
        };
        let mut code = self.last;
        for command in commands {
            let runs = match command.join {
                Join::Always => true,
                Join::IfGood => code == 0,
                Join::IfBad => code != 0,
            };
            if !runs {
                continue;
            }
            let words = words::expand(&command.words, |name| self.value(name));
            code = if self.input.is_terminal() {
                let interrupted = self.input.interrupted();
                tokio::select! {
                    code = Box::pin(self.run(&words)) => code,
                    () = interrupted => 130,
                }
            } else {
                Box::pin(self.run(&words)).await
            };
            self.last = code;
            if self.left {
                break;
            }
        }
        code
    }

    fn value(&self, name: &str) -> String {
        match name {
            "?" => self.last.to_string(),
            "PWD" => self.folder.clone(),
            _ => self
                .variables
                .iter()
                .find(|(key, _)| key == name)
                .map(|(_, value)| value.clone())
                .unwrap_or_default(),
        }
    }

    async fn write(&self, stream: Stream, bytes: Bytes) -> Result<(), ()> {
        self.output.send((stream, bytes)).await.map_err(drop)
    }

    /// Prints; a reader that is gone ends the command as SIGPIPE would.
    async fn print(&self, text: String) -> u8 {
        match self.write(Stream::Stdout, text.into()).await {
            Ok(()) => 0,
            Err(()) => 141,
        }
    }

    async fn complain(&self, text: String) {
        let _ = self.write(Stream::Stderr, text.into()).await;
    }

    async fn echo(&self, arguments: &[String]) -> u8 {
        let (end, words) = match arguments.split_first() {
            Some((first, rest)) if first == "-n" => ("", rest),
            _ => ("\n", arguments),
        };
        self.print(format!("{}{end}", words.join(" "))).await
    }

    async fn env(&self, arguments: &[String]) -> u8 {
        let Some(name) = arguments.first() else {
            let lines: Vec<String> = self
                .variables
                .iter()
                .map(|(k, v)| format!("{k}={v}\n"))
                .collect();
            return self.print(lines.concat()).await;
        };
        match self.variables.iter().find(|(key, _)| key == name) {
            Some((_, value)) => self.print(format!("{value}\n")).await,
            None => 1,
        }
    }

    async fn change(&mut self, arguments: &[String]) -> u8 {
        let target = arguments.first().map_or("/", String::as_str);
        let path = absolute(&self.folder, target);
        match self.root.check_folder(&path) {
            Ok(()) => {
                self.folder = path;
                0
            }
            Err(error) => {
                self.complain(format!(
                    "sh: cd: can't cd to {target}: {}\n",
                    words_of(&error)
                ))
                .await;
                2
            }
        }
    }

    async fn list(&self, arguments: &[String]) -> u8 {
        let (flags, mut paths): (Vec<&String>, Vec<&str>) = (
            arguments
                .iter()
                .filter(|word| word.starts_with('-'))
                .collect(),
            arguments
                .iter()
                .filter(|word| !word.starts_with('-'))
                .map(String::as_str)
                .collect(),
        );
        let has = |flag: char| flags.iter().any(|word| word.contains(flag));
        let (all, long) = (has('a') || has('A'), has('l'));
        if paths.is_empty() {
            paths.push(".");
        }
        let several = paths.len() > 1;
        let mut code = 0;
        for (at, path) in paths.iter().enumerate() {
            match self.root.list(&absolute(&self.folder, path)) {
                Ok(None) => {
                    code = code.max(self.print(format!("{path}\n")).await);
                }
                Ok(Some(entries)) => {
                    let mut text = String::new();
                    if several {
                        text = format!("{}{path}:\n", if at > 0 { "\n" } else { "" });
                    }
                    for entry in entries.iter().filter(|e| all || !e.name.starts_with('.')) {
                        text.push_str(&line_of(entry, long));
                    }
                    code = code.max(self.print(text).await);
                }
                Err(error) => {
                    self.complain(format!("ls: {path}: {}\n", words_of(&error)))
                        .await;
                    code = 1;
                }
            }
        }
        code
    }

    async fn cat(&mut self, arguments: &[String]) -> u8 {
        let own = ["-".to_owned()];
        let paths = if arguments.is_empty() {
            &own[..]
        } else {
            arguments
        };
        let mut code = 0;
        for path in paths {
            if path == "-" {
                while let Some(bytes) = self.input.bytes(&self.output).await {
                    if self.write(Stream::Stdout, bytes).await.is_err() {
                        return 141;
                    }
                }
                continue;
            }
            let mut file = match self.root.file(&absolute(&self.folder, path)) {
                Ok(file) => file,
                Err(error) => {
                    self.complain(format!("cat: can't open '{path}': {}\n", words_of(&error)))
                        .await;
                    code = 1;
                    continue;
                }
            };
            loop {
                let mut chunk = vec![0; CHUNK];
                match file.read(&mut chunk) {
                    Ok(0) => break,
                    Ok(length) => {
                        chunk.truncate(length);
                        if self.write(Stream::Stdout, chunk.into()).await.is_err() {
                            return 141;
                        }
                    }
                    Err(error) => {
                        self.complain(format!("cat: read error: {}\n", words_of(&error)))
                            .await;
                        code = 1;
                        break;
                    }
                }
            }
        }
        code
    }

    async fn sleep(&self, arguments: &[String]) -> u8 {
        let mut total = Duration::ZERO;
        for word in arguments {
            let (number, unit) = match word.char_indices().last() {
                Some((at, 's')) => (word.get(..at), 1.0),
                Some((at, 'm')) => (word.get(..at), 60.0),
                Some((at, 'h')) => (word.get(..at), 3600.0),
                _ => (Some(word.as_str()), 1.0),
            };
            let seconds = number
                .and_then(|text| text.parse::<f64>().ok())
                .map(|n| n * unit);
            match seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()) {
                Some(pause) => total = total.saturating_add(pause),
                None => {
                    self.complain(format!("sleep: invalid number '{word}'\n"))
                        .await;
                    return 1;
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(total) => 0,
            () = self.output.closed() => 141,
        }
    }
}

fn words_of(error: &io::Error) -> String {
    let text = match error.kind() {
        io::ErrorKind::NotFound => "No such file or directory",
        io::ErrorKind::PermissionDenied => "Permission denied",
        io::ErrorKind::NotADirectory => "Not a directory",
        io::ErrorKind::IsADirectory => "Is a directory",
        _ if error.raw_os_error() == Some(40) => "Symbolic link loop",
        _ => return error.to_string(),
    };
    text.to_owned()
}

fn line_of(entry: &Entry, long: bool) -> String {
    if !long {
        return format!("{}\n", entry.name);
    }
    let kind = match entry.kind {
        FileType::Directory => 'd',
        FileType::Symlink => 'l',
        FileType::RegularFile => '-',
        _ => '?',
    };
    let bits: String = (0..9)
        .rev()
        .zip("rwxrwxrwx".chars())
        .map(|(bit, letter)| {
            if entry.mode >> bit & 1 == 1 {
                letter
            } else {
                '-'
            }
        })
        .collect();
    format!("{kind}{bits} {:>9} {}\n", entry.size, entry.name)
}
