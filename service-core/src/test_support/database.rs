//! One database for each test, copied from a template that is migrated once.

use std::net::SocketAddr;

use sqlx::migrate::Migrator;
use sqlx::postgres::{PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use super::supervisor::random_word;
use crate::config::DatabaseConfig;
use crate::database::connect_options;
use crate::digest::sha256;
use crate::migrate::migrate;

/// A database for one test alone.
#[derive(Debug)]
pub struct TestDatabase {
    /// Its URL, with the rights of a superuser.
    pub url: String,
    /// The name of the database.
    pub name: String,
    /// Set if others use the server too: the database must go when the test ends.
    dropped_from: Option<String>,
}

impl TestDatabase {
    /// A pool of at most `max` connections, of this test's runtime alone.
    #[must_use]
    pub fn pool(&self, max: u32) -> PgPool {
        PgPoolOptions::new()
            .max_connections(max)
            .connect_lazy_with(connect_options(&self.config(), "rowlock-test"))
    }

    /// How a service reaches it.
    #[must_use]
    pub fn config(&self) -> DatabaseConfig {
        DatabaseConfig::from_url(&self.url).expect("the URL of a test database is well-formed")
    }

    /// Where its server listens.
    ///
    /// # Panics
    /// If its URL has no address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        let (_, server, _) = self.url_parts();
        server.parse().expect("the server of a test database has an address")
    }

    /// Its URL by way of another address.
    #[must_use]
    pub fn url_through(&self, address: SocketAddr) -> String {
        let (credentials, _, name) = self.url_parts();
        format!("{credentials}@{address}/{name}")
    }

    /// What stands before the address, the address, and the name.
    fn url_parts(&self) -> (&str, &str, &str) {
        let (credentials, server) =
            self.url.rsplit_once('@').expect("the URL of a test database has credentials");
        let (server, name) = server.split_once('/').expect("the URL of a test database has its name");
        (credentials, server, name)
    }

    /// One more database with the same content, while nobody is connected to this one.
    ///
    /// # Panics
    /// If somebody is.
    pub async fn copy(&self) -> Self {
        let (server, _) = self.url.rsplit_once('/').expect("the URL of a test database has its name");
        let name = format!("rowlock_test_{}", random_word());
        let mut admin = connect(server).await;
        execute(&mut admin, format!("CREATE DATABASE {name} TEMPLATE {}", self.name)).await;
        let _ = admin.close().await;
        Self { url: format!("{server}/{name}"), name, dropped_from: Some(server.to_owned()) }
    }

    pub(super) async fn create(
        server: &str,
        shared: bool,
        template: &str,
        migrator: &'static Migrator,
    ) -> Self {
        let mut admin = connect(server).await;
        let template = template_of(template, migrator);
        if !exists(&mut admin, &template).await {
            build(&mut admin, server, &template, migrator).await;
        }
        let name = format!("rowlock_test_{}", random_word());
        execute(&mut admin, format!("CREATE DATABASE {name} TEMPLATE {template}")).await;
        let _ = admin.close().await;
        Self { url: format!("{server}/{name}"), name, dropped_from: shared.then(|| server.to_owned()) }
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let Some(server) = self.dropped_from.take() else { return };
        let sql = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        // The runtime of the test may be ending: the farewell has its own.
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            if let Ok(runtime) = runtime {
                runtime.block_on(async {
                    if let Ok(mut admin) = PgConnection::connect(&format!("{server}/postgres")).await {
                        let _ = admin.execute(AssertSqlSafe(sql)).await;
                    }
                });
            }
        });
        let _ = dropping.join();
    }
}

/// The name says which migrations are in it, so that a server that is kept never gives an old schema.
fn template_of(template: &str, migrator: &Migrator) -> String {
    let checksums: Vec<&[u8]> = migrator.iter().map(|migration| migration.checksum.as_ref()).collect();
    let digest: String = sha256(&checksums).iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    format!("rowlock_template_{template}_{digest}")
}

/// Migrates under another name and renames at the end, so that a template that is there is complete.
async fn build(admin: &mut PgConnection, server: &str, template: &str, migrator: &'static Migrator) {
    // Held until the connection closes. Whoever waits here finds the template afterwards.
    execute(admin, format!("SELECT pg_advisory_lock(hashtext('{template}'))")).await;
    if !exists(admin, template).await {
        let building = format!("{template}_building");
        execute(admin, format!("DROP DATABASE IF EXISTS {building} WITH (FORCE)")).await;
        execute(admin, format!("CREATE DATABASE {building}")).await;
        let config =
            DatabaseConfig::from_url(format!("{server}/{building}")).expect("the URL is well-formed");
        migrate(&config, migrator)
            .await
            .unwrap_or_else(|error| panic!("the migrations of {template} fail: {error:?}"));
        execute(admin, format!("ALTER DATABASE {building} RENAME TO {template}")).await;
    }
    execute(admin, format!("SELECT pg_advisory_unlock(hashtext('{template}'))")).await;
}

async fn connect(server: &str) -> PgConnection {
    let url = format!("{server}/postgres");
    PgConnection::connect(&url)
        .await
        .unwrap_or_else(|error| panic!("the test server cannot be reached: {error}"))
}

async fn exists(admin: &mut PgConnection, database: &str) -> bool {
    sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)")
        .bind(database)
        .fetch_one(admin)
        .await
        .unwrap_or_else(|error| panic!("the test server cannot be asked: {error}"))
}

async fn execute(admin: &mut PgConnection, sql: String) {
    if let Err(error) = admin.execute(AssertSqlSafe(sql.clone())).await {
        panic!("{sql}: {error}");
    }
}
