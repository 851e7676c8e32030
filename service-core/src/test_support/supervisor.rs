//! The script that runs a private PostgreSQL, held by its standard input.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};

use crate::digest::sha256;

/// Another process may take the port between our look and the server's start.
const MAX_TRIES: usize = 5;

/// What kind of server.
#[derive(Clone, Debug, Default)]
pub(super) struct Kind {
    /// `name=value`, as for `postgres -c`.
    pub(super) settings: Vec<String>,
    /// The port and the password of the server that it is a standby of.
    pub(super) primary: Option<(u16, String)>,
    /// The size of its file system, such as `200m`, if it has one of its own.
    pub(super) size: Option<String>,
}

/// A server that lives for as long as this does, see `supervisor.sh`.
#[derive(Debug)]
pub(super) struct Supervisor {
    pub(super) port: u16,
    pub(super) password: String,
    /// The folder of PostgreSQL's programs.
    pub(super) programs: PathBuf,
    life: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Supervisor {
    pub(super) fn start(kind: &Kind) -> Self {
        let bin =
            programs().expect("PostgreSQL is installed, or ROWLOCK_PG_BIN names the folder of its programs");
        let mut complaints = String::new();
        for _ in 0..MAX_TRIES {
            match Self::start_at(&bin, free_port(), kind) {
                Ok(supervisor) => return supervisor,
                Err(complaint) => complaints.push_str(&complaint),
            }
        }
        panic!("a private PostgreSQL could not be started from {}:\n{complaints}", bin.display());
    }

    fn start_at(bin: &Path, port: u16, kind: &Kind) -> Result<Self, String> {
        let (primary, password) = match &kind.primary {
            Some((primary, password)) => (primary.to_string(), password.clone()),
            None => (String::new(), random_word()),
        };
        let mut supervisor = Command::new("sh")
            .args(["-c", include_str!("supervisor.sh"), "supervisor"])
            .arg(bin)
            .args([port.to_string(), primary, kind.size.clone().unwrap_or_default()])
            .args(kind.settings.iter().flat_map(|setting| ["-c", setting]))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C at the terminal is for the test process; the supervisor follows by its pipe.
            .process_group(0)
            .spawn()
            .map_err(|error| format!("sh: {error}\n"))?;
        let life = supervisor.stdin.take().expect("standard input is piped");
        let answers = BufReader::new(supervisor.stdout.take().expect("standard output is piped"));
        let mut started = Self { port, password, programs: bin.to_owned(), life, answers };
        let password = started.password.clone();
        if started.tell(&password)? == "ready" {
            return Ok(started);
        }
        let mut complaint = String::new();
        if let Some(mut stderr) = supervisor.stderr.take() {
            let _ = stderr.read_to_string(&mut complaint);
        }
        let _ = supervisor.wait();
        Err(complaint)
    }

    /// The answer to a line.
    pub(super) fn tell(&mut self, line: &str) -> Result<String, String> {
        let fail = |error| format!("supervisor: {error}\n");
        writeln!(self.life, "{line}").map_err(fail)?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer).map_err(fail)?;
        Ok(answer.trim().to_owned())
    }

    /// The URL of the superuser, without a database.
    pub(super) fn url(&self) -> String {
        format!("postgres://postgres:{}@127.0.0.1:{}", self.password, self.port)
    }
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port is free");
    listener.local_addr().expect("a bound socket has an address").port()
}

/// Letters and digits that nobody can guess.
pub(super) fn random_word() -> String {
    let word = sha256(&[&rand::random::<[u8; 32]>()]);
    word.iter().take(12).map(|byte| format!("{byte:02x}")).collect()
}

/// The folder of PostgreSQL's programs.
pub(super) fn programs() -> Option<PathBuf> {
    if let Some(dir) = std::env::var_os("ROWLOCK_PG_BIN") {
        return Some(PathBuf::from(dir)).filter(|dir| is_complete(dir));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).find(|dir| is_complete(dir));
    in_path.or_else(|| {
        [
            ("/usr/lib/postgresql", ""),
            ("/usr", "pgsql-"),
            ("/opt/homebrew/opt", "postgresql@"),
            ("/usr/local/opt", "postgresql@"),
        ]
        .iter()
        .filter_map(|(parent, prefix)| newest(Path::new(parent), prefix))
        .next()
    })
}

/// The `bin` folder of the highest version among `parent/prefixVERSION`.
fn newest(parent: &Path, prefix: &str) -> Option<PathBuf> {
    let versions = std::fs::read_dir(parent).ok()?.filter_map(|entry| {
        let entry = entry.ok()?;
        let version: u32 = entry.file_name().to_str()?.strip_prefix(prefix)?.parse().ok()?;
        let bin = entry.path().join("bin");
        is_complete(&bin).then_some((version, bin))
    });
    versions.max().map(|(_, bin)| bin)
}

fn is_complete(dir: &Path) -> bool {
    ["initdb", "postgres", "pg_isready"].iter().all(|program| dir.join(program).is_file())
}
