//! The real thing: a durable PostgreSQL, and replicas of the release binary as processes of their own.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context;
use booking_service::MIGRATOR;
use service_core::test_support::{TEST_AUDIENCE, TEST_ISSUER, TestCluster, TestDatabase};
use sqlx::PgPool;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};
use tonic::transport::{Channel, Endpoint};

use crate::usage::{Usage, cpu_of, cpu_of_children};

/// What is not as PostgreSQL comes. Nothing of it is about durability.
const SETTINGS: [&str; 4] =
    ["max_connections=500", "shared_buffers=1GB", "max_wal_size=8GB", "track_io_timing=off"];

/// The settings that are printed.
const SHOWN: [&str; 10] = [
    "fsync",
    "synchronous_commit",
    "full_page_writes",
    "wal_level",
    "wal_sync_method",
    "shared_buffers",
    "max_wal_size",
    "checkpoint_timeout",
    "autovacuum",
    "max_connections",
];

const PATIENCE: Duration = Duration::from_secs(30);

/// A PostgreSQL of the benchmark's own, as durable as it comes.
pub(crate) fn cluster(profile: bool) -> TestCluster {
    let mut settings = SETTINGS.to_vec();
    if profile {
        settings.push("shared_preload_libraries=pg_stat_statements");
    }
    TestCluster::with_settings(&settings)
}

/// Sessions without the limits of a service's: a benchmark waits.
pub(crate) fn pool(database: &TestDatabase) -> anyhow::Result<PgPool> {
    Ok(sqlx::postgres::PgPoolOptions::new().max_connections(4).connect_lazy(&database.url)?)
}

/// The version and the settings that matter, `name = value` each.
pub(crate) async fn settings(pool: &PgPool) -> anyhow::Result<Vec<String>> {
    let names: Vec<String> = SHOWN.iter().map(|name| (*name).to_owned()).collect();
    let version: String =
        sqlx::query_scalar("SELECT current_setting('server_version')").fetch_one(pool).await?;
    let rows: Vec<(String, String)> =
        sqlx::query_as("SELECT name, current_setting(name) FROM unnest($1::text[]) AS name")
            .bind(&names)
            .fetch_all(pool)
            .await?;
    let durable = |name: &str| rows.iter().any(|(setting, value)| setting == name && value == "on");
    anyhow::ensure!(
        ["fsync", "synchronous_commit", "full_page_writes"].into_iter().all(durable),
        "the database is not durable: {rows:?}"
    );
    let version = format!("PostgreSQL = {version}");
    Ok(std::iter::once(version)
        .chain(rows.into_iter().map(|(name, value)| format!("{name} = {value}")))
        .collect())
}

/// Replicas over one new database.
pub(crate) struct System {
    pub(crate) database: TestDatabase,
    /// For looking behind the service's back.
    pub(crate) pool: PgPool,
    pub(crate) replicas: Vec<Replica>,
    postmaster: u32,
}

impl System {
    pub(crate) async fn start(
        cluster: &TestCluster,
        identity: SocketAddr,
        replicas: usize,
    ) -> anyhow::Result<Self> {
        let database = cluster.new_database("booking", &MIGRATOR).await;
        let pool = pool(&database)?;
        let backend: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&pool).await?;
        let postmaster = crate::usage::parent_of(u32::try_from(backend)?).unwrap_or_default();
        let mut system = Self { database, pool, replicas: Vec::new(), postmaster };
        for _ in 0..replicas {
            system.replicas.push(Replica::start(&system.database, identity).await?);
        }
        Ok(system)
    }

    pub(crate) fn channel(&self) -> anyhow::Result<Channel> {
        let replica = self.replicas.first().context("there is no replica")?;
        Ok(Endpoint::from_shared(replica.url())?.connect_lazy())
    }

    pub(crate) fn urls(&self) -> Vec<String> {
        self.replicas.iter().map(Replica::url).collect()
    }

    /// What the database spent its time on, most first, since `pg_stat_statements` was there.
    pub(crate) async fn statements(&self) -> anyhow::Result<Vec<String>> {
        sqlx::query("CREATE EXTENSION IF NOT EXISTS pg_stat_statements").execute(&self.pool).await?;
        let rows: Vec<(String,)> = sqlx::query_as(
            "SELECT format('%s ms in %s calls (%s ms each), %s rows, %s WAL bytes: %s', round(total_exec_time), calls,
                           round(mean_exec_time::numeric, 3), rows, wal_bytes,
                           left(regexp_replace(query, '\\s+', ' ', 'g'), 100))
               FROM pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid
              WHERE datname = current_database() ORDER BY total_exec_time DESC LIMIT 12",
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().map(|(line,)| line).collect())
    }

    /// Writes out what the past has left, so that the next measurement does not pay for it.
    pub(crate) async fn settle(&self) -> anyhow::Result<()> {
        sqlx::query("CHECKPOINT").execute(&self.pool).await?;
        Ok(())
    }

    /// What services and database have used so far.
    pub(crate) async fn usage(&self) -> anyhow::Result<Usage> {
        let wal: i64 = sqlx::query_scalar("SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint")
            .fetch_one(&self.pool)
            .await?;
        Ok(Usage {
            services: self.replicas.iter().map(|replica| cpu_of(replica.child.id())).sum(),
            postgres: cpu_of(self.postmaster) + cpu_of_children(self.postmaster),
            clients: cpu_of(std::process::id()),
            machine: crate::usage::cpu_of_machine(),
            wal_bytes: u64::try_from(wal).unwrap_or_default(),
        })
    }
}

/// One replica. Killed on drop.
pub(crate) struct Replica {
    child: Child,
    grpc: SocketAddr,
    /// From the start of the process until it was ready.
    pub(crate) ready_after: Duration,
}

impl Replica {
    /// As in production but for the ports and for whose tokens are good.
    pub(crate) async fn start(database: &TestDatabase, identity: SocketAddr) -> anyhow::Result<Self> {
        let mut command = Command::new(binary());
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("ROWLOCK_")) {
            command.env_remove(name);
        }
        command
            .args(["serve", "--grpc-addr", "127.0.0.1:0", "--http-addr", "127.0.0.1:0"])
            .args(["--token-issuer", TEST_ISSUER, "--token-audience", TEST_AUDIENCE])
            .args(["--identity-addr", &format!("http://{identity}")])
            .env("ROWLOCK_DATABASE_URL", &database.url);
        let began = Instant::now();
        let child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let unknown = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut replica = Self { child, grpc: unknown, ready_after: Duration::ZERO };
        let http = replica.read_addresses(&database.name)?;
        while !is_ready(http).await {
            anyhow::ensure!(began.elapsed() < PATIENCE, "the replica does not become ready");
            sleep(Duration::from_millis(2)).await;
        }
        replica.ready_after = began.elapsed();
        Ok(replica)
    }

    /// Reads the log until both addresses are known; the rest of it goes to a file.
    fn read_addresses(&mut self, name: &str) -> anyhow::Result<SocketAddr> {
        let mut stderr = BufReader::new(self.child.stderr.take().context("standard error is piped")?);
        let mut read = String::new();
        loop {
            let mut line = String::new();
            anyhow::ensure!(stderr.read_line(&mut line)? > 0, "the replica ended: {read}");
            read.push_str(&line);
            let Ok(line) = serde_json::from_str::<serde_json::Value>(&line) else { continue };
            let address = |name: &str| line.get(name)?.as_str()?.parse().ok();
            if let (Some(grpc), Some(http)) = (address("grpc_addr"), address("http_addr")) {
                self.grpc = grpc;
                let mut log =
                    File::create(crate::report::folder()?.join(format!("{name}-{}.log", grpc.port())))?;
                std::thread::spawn(move || std::io::copy(&mut stderr, &mut log));
                return Ok(http);
            }
        }
    }

    fn url(&self) -> String {
        format!("http://{}", self.grpc)
    }

    /// Resident memory now and at its highest, in MiB.
    pub(crate) fn memory(&self) -> (f64, f64) {
        crate::usage::memory_of(self.child.id())
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program that is measured.
pub(crate) fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_booking-service"))
}

/// Tells builds of it apart: the beginning of its digest.
pub(crate) fn build() -> anyhow::Result<String> {
    let digest = service_core::digest::sha256(&[&std::fs::read(binary())?]);
    Ok(digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect())
}

async fn is_ready(http: SocketAddr) -> bool {
    let ask = async {
        let mut stream = TcpStream::connect(http).await?;
        stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: rush\r\nconnection: close\r\n\r\n").await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        std::io::Result::Ok(answer.starts_with(b"HTTP/1.1 200"))
    };
    ask.await.unwrap_or(false)
}
