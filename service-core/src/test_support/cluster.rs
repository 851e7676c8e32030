//! One private PostgreSQL for each test process.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::OnceLock;

use sqlx::migrate::Migrator;

use super::database::TestDatabase;
use crate::digest::sha256;

/// Another process may take the port between our look and the server's start.
const MAX_TRIES: usize = 5;

/// Nothing of it outlives the process, so nothing has to outlive a crash.
const THROW_AWAY: [&str; 7] = [
    "max_connections=300",
    "fsync=off",
    "full_page_writes=off",
    "synchronous_commit=off",
    "wal_level=minimal",
    "max_wal_senders=0",
    "shared_buffers=64MB",
];

/// A PostgreSQL that belongs to this test process and ends with it, whichever way it ends.
///
/// `ROWLOCK_PG_BIN` names the folder of PostgreSQL's programs; else `initdb` is looked for in `PATH`, then in the places
/// where packages put it, the newest first. `ROWLOCK_TEST_DATABASE_URL`, the URL of a superuser, takes a server that runs
/// already instead.
#[derive(Debug)]
pub struct TestCluster {
    /// The URL of the superuser, without a database.
    url: String,
    /// The server lives for as long as this stays open, see `supervisor.sh`.
    _life: Option<ChildStdin>,
    shared: bool,
    programs: PathBuf,
}

static CLUSTER: OnceLock<TestCluster> = OnceLock::new();

impl TestCluster {
    /// A new database with the schema of `migrator`, for one test alone. `template` is a word for names, such as `booking`.
    ///
    /// # Panics
    /// If there is no PostgreSQL, or a migration fails.
    pub async fn database(template: &str, migrator: &'static Migrator) -> TestDatabase {
        CLUSTER.get_or_init(Self::start).new_database(template, migrator).await
    }

    /// One more cluster, for measurements: with `settings`, such as `shared_buffers=1GB`, and else as PostgreSQL comes,
    /// which is durable.
    ///
    /// # Panics
    /// If there is no PostgreSQL, or it does not start.
    #[must_use]
    pub fn with_settings(settings: &[&str]) -> Self {
        Self::start_private(settings)
    }

    /// As [`TestCluster::database`], here.
    ///
    /// # Panics
    /// If a migration fails.
    pub async fn new_database(&self, template: &str, migrator: &'static Migrator) -> TestDatabase {
        TestDatabase::create(&self.url, self.shared, template, migrator).await
    }

    /// The folder of PostgreSQL's programs.
    #[must_use]
    pub fn programs(&self) -> &Path {
        &self.programs
    }

    fn start() -> Self {
        if let Ok(url) = std::env::var("ROWLOCK_TEST_DATABASE_URL") {
            let url = server_part(&url)
                .expect("ROWLOCK_TEST_DATABASE_URL is postgres://user:password@host:port/database");
            let programs = programs().unwrap_or_default();
            return Self { url, _life: None, shared: true, programs };
        }
        Self::start_private(&THROW_AWAY)
    }

    fn start_private(settings: &[&str]) -> Self {
        let bin =
            programs().expect("PostgreSQL is installed, or ROWLOCK_PG_BIN names the folder of its programs");
        let mut complaints = String::new();
        for _ in 0..MAX_TRIES {
            match Self::start_at(&bin, free_port(), &random_word(), settings) {
                Ok(cluster) => return cluster,
                Err(complaint) => complaints.push_str(&complaint),
            }
        }
        panic!("a private PostgreSQL could not be started from {}:\n{complaints}", bin.display());
    }

    fn start_at(bin: &Path, port: u16, password: &str, settings: &[&str]) -> Result<Self, String> {
        let mut supervisor = Command::new("sh")
            .args(["-c", include_str!("supervisor.sh"), "supervisor"])
            .arg(bin)
            .arg(port.to_string())
            .args(settings.iter().flat_map(|setting| ["-c", setting]))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C at the terminal is for the test process; the supervisor follows by its pipe.
            .process_group(0)
            .spawn()
            .map_err(|error| format!("sh: {error}\n"))?;
        let mut life = supervisor.stdin.take().expect("standard input is piped");
        writeln!(life, "{password}").map_err(|error| format!("supervisor: {error}\n"))?;
        let mut line = String::new();
        let stdout = supervisor.stdout.take().expect("standard output is piped");
        BufReader::new(stdout).read_line(&mut line).map_err(|error| format!("supervisor: {error}\n"))?;
        if line.trim() == "ready" {
            let url = format!("postgres://postgres:{password}@127.0.0.1:{port}");
            return Ok(Self { url, _life: Some(life), shared: false, programs: bin.to_owned() });
        }
        let mut complaint = String::new();
        if let Some(mut stderr) = supervisor.stderr.take() {
            let _ = stderr.read_to_string(&mut complaint);
        }
        let _ = supervisor.wait();
        Err(complaint)
    }
}

/// The URL without its database.
fn server_part(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let server = rest.split_once('/').map_or(rest, |(server, _)| server);
    Some(format!("{scheme}://{server}"))
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
fn programs() -> Option<PathBuf> {
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
