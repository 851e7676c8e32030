//! A PostgreSQL of one test's own, for tests that break it.

use sqlx::migrate::Migrator;

use super::database::TestDatabase;
use super::supervisor::{Kind, Supervisor};

/// A PostgreSQL as it is when it is installed, durable, that a test can kill and start again. It ends with the test process,
/// whichever way that ends.
#[derive(Debug)]
pub struct TestServer(Supervisor);

impl TestServer {
    /// Starts one. `settings` are `name=value`.
    ///
    /// # Panics
    /// If there is no PostgreSQL.
    #[must_use]
    pub fn start(settings: &[&str]) -> Self {
        Self(Supervisor::start(&Kind { settings: with_defaults(settings), ..Kind::default() }))
    }

    /// Starts one whose data lie on a file system of their own in memory, of `size` as in `200m`. For that the test has to
    /// run as root: else `None`.
    ///
    /// # Panics
    /// If there is no PostgreSQL.
    #[must_use]
    pub fn on_a_small_disk(size: &str, settings: &[&str]) -> Option<Self> {
        // A process's own folder in /proc belongs to its user.
        let root =
            std::fs::metadata("/proc/self").is_ok_and(|me| std::os::unix::fs::MetadataExt::uid(&me) == 0);
        let kind = Kind { settings: with_defaults(settings), size: Some(size.to_owned()), ..Kind::default() };
        root.then(|| Self(Supervisor::start(&kind)))
    }

    /// Starts a standby, which calls itself `standby`.
    ///
    /// # Panics
    /// If it cannot be copied.
    #[must_use]
    pub fn standby(&self, settings: &[&str]) -> Self {
        let primary = Some((self.0.port, self.0.password.clone()));
        Self(Supervisor::start(&Kind { settings: with_defaults(settings), primary, size: None }))
    }

    /// A new database in it, with the schema of `migrator`.
    ///
    /// # Panics
    /// If a migration fails.
    pub async fn database(&self, template: &str, migrator: &'static Migrator) -> TestDatabase {
        TestDatabase::create(&self.0.url(), false, template, migrator).await
    }

    /// Its port, at 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.0.port
    }

    /// SIGKILL to the server and to every session, in this order.
    ///
    /// # Panics
    /// If that is not done.
    pub fn kill(&mut self) {
        self.tell("kill");
    }

    /// Starts it again, and waits until it accepts connections.
    ///
    /// # Panics
    /// If it does not come up.
    pub fn restart(&mut self) {
        self.tell("start");
    }

    /// Makes a standby the primary, and waits until it is.
    ///
    /// # Panics
    /// If it does not become one.
    pub fn promote(&mut self) {
        self.tell("promote");
    }

    fn tell(&mut self, command: &str) {
        match self.0.tell(command) {
            Ok(answer) => assert_eq!(answer, "ready", "{command}"),
            Err(error) => panic!("{command}: {error}"),
        }
    }
}

fn with_defaults(settings: &[&str]) -> Vec<String> {
    let defaults = ["max_connections=200", "shared_buffers=64MB"];
    defaults.iter().chain(settings).map(|setting| (*setting).to_owned()).collect()
}
