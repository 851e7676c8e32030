//! One private PostgreSQL for each test process.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use sqlx::migrate::Migrator;

use super::database::TestDatabase;
use super::supervisor::{Kind, Supervisor, programs};

/// Nothing of it outlives the process, so nothing has to outlive a crash.
const THROW_AWAY: [&str; 7] = [
    "max_connections=600",
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
    _life: Option<Supervisor>,
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
        let settings = settings.iter().map(|setting| (*setting).to_owned()).collect();
        let supervisor = Supervisor::start(&Kind { settings, ..Kind::default() });
        let (url, programs) = (supervisor.url(), supervisor.programs.clone());
        Self { url, _life: Some(supervisor), shared: false, programs }
    }
}

/// The URL without its database.
fn server_part(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let server = rest.split_once('/').map_or(rest, |(server, _)| server);
    Some(format!("{scheme}://{server}"))
}
