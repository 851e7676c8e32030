//! What people use today, measured by pgbench on the same server: lean tables of the same kind, one transaction for each
//! registration, prepared statements, no service in between.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use booking_service::MIGRATOR;
use service_core::test_support::{TestCluster, TestDatabase};
use sqlx::PgPool;
use tokio::process::Command;

/// A way to register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    /// An atomic update, then the insert.
    A,
    /// The row's lock, two look-ups, the insert, the update.
    B,
    /// One statement that does it all.
    C,
}

impl Flow {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::A => "A",
            Self::B => "B",
            Self::C => "C",
        }
    }

    fn script(self) -> &'static str {
        match self {
            Self::A => {
                "BEGIN;
                 UPDATE plain.events SET seats = seats - 1 WHERE id = :event AND seats > 0;
                 INSERT INTO plain.registrations (event_id, user_id) VALUES (:event, :person);
                 COMMIT;"
            }
            Self::B => {
                "BEGIN;
                 SELECT * FROM plain.events WHERE id = :event FOR UPDATE;
                 SELECT id FROM plain.registrations WHERE event_id = :event AND user_id = :person;
                 SELECT id FROM plain.waitlist WHERE event_id = :event AND user_id = :person;
                 INSERT INTO plain.registrations (event_id, user_id) VALUES (:event, :person);
                 UPDATE plain.events SET seats = seats - 1 WHERE id = :event;
                 COMMIT;"
            }
            Self::C => {
                "WITH taken AS (
                     UPDATE plain.events SET seats = seats - 1 WHERE id = :event AND seats > 0 RETURNING id
                 ) INSERT INTO plain.registrations (event_id, user_id) SELECT id, :person FROM taken;"
            }
        }
    }
}

/// Numbers for keys and no more columns and indexes than a small system has: leaner than Rowlock's own.
const SCHEMA: &str = "
    CREATE SCHEMA plain;
    CREATE TABLE plain.events (
        id bigint PRIMARY KEY, title text NOT NULL, start_time timestamptz NOT NULL, capacity int NOT NULL,
        seats int NOT NULL CHECK (seats >= 0)
    ) WITH (fillfactor = 50);
    CREATE TABLE plain.registrations (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, event_id bigint NOT NULL, user_id bigint NOT NULL,
        state text NOT NULL DEFAULT 'CONFIRMED', create_time timestamptz NOT NULL DEFAULT now(),
        UNIQUE (event_id, user_id)
    );
    CREATE INDEX ON plain.registrations (user_id);
    CREATE TABLE plain.waitlist (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, event_id bigint NOT NULL, user_id bigint NOT NULL,
        create_time timestamptz NOT NULL DEFAULT now(), UNIQUE (event_id, user_id)
    );
    INSERT INTO plain.events
        SELECT n, 'Event ' || n, now(), 1000000000, 1000000000 FROM generate_series(1, 1000) AS n;";

/// The database of the flows.
pub(crate) struct Baselines {
    pub(crate) pool: PgPool,
    database: TestDatabase,
    pgbench: PathBuf,
    scripts: PathBuf,
}

/// What pgbench found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    /// Registrations a second, when all clients were connected and warm.
    pub(crate) rate: f64,
    /// Of one client, in milliseconds; not a number for more.
    pub(crate) p50: f64,
}

impl Baselines {
    pub(crate) async fn prepare(cluster: &TestCluster) -> anyhow::Result<Self> {
        let pgbench =
            ["pgbench"].iter().map(|name| cluster.programs().join(name)).find(|path| path.is_file());
        let pgbench =
            pgbench.context("there is no pgbench beside postgres: install PostgreSQL's contrib programs")?;
        let database = cluster.new_database("booking", &MIGRATOR).await;
        let pool = crate::server::pool(&database)?;
        sqlx::raw_sql(SCHEMA).execute(&pool).await?;
        let scripts = crate::report::folder()?.join("pgbench");
        std::fs::create_dir_all(&scripts)?;
        Ok(Self { pool, database, pgbench, scripts })
    }

    /// Runs a flow with so many clients on so many events (1 to 1,000), on tables that are empty at the beginning.
    pub(crate) async fn run(
        &self,
        flow: Flow,
        clients: usize,
        events: usize,
        time: Duration,
    ) -> anyhow::Result<Measured> {
        for tidy in ["TRUNCATE plain.registrations", "VACUUM ANALYZE plain.events", "CHECKPOINT"] {
            sqlx::query(tidy).execute(&self.pool).await?;
        }
        let script = self.scripts.join(format!("{}.sql", flow.name()));
        let choose =
            format!("\\set event random(1, {events})\n\\set person random(1, 4611686018427387904)\n");
        std::fs::write(&script, choose + flow.script())?;
        let mut arguments = Vec::new();
        if clients == 1 {
            // With more, the log would cost the flow something.
            let log = self.scripts.join("transactions");
            arguments.extend(["--log".to_owned(), format!("--log-prefix={}", log.display())]);
        }
        self.forget_logs()?;
        let measured = usize::try_from(time.as_secs())?.max(1);
        // pgbench counts the time in which it connects, and new sessions are slow at first.
        let seconds = (measured + 1 + clients / 50).to_string();
        let output = Command::new(&self.pgbench)
            .args([
                "--no-vacuum",
                "--protocol",
                "prepared",
                "--progress",
                "1",
                "--jobs",
                &clients.min(2).to_string(),
            ])
            .args(["--client", &clients.to_string(), "--time", &seconds, "--file"])
            .arg(&script)
            .args(arguments)
            .arg(&self.database.url)
            .stdin(Stdio::null())
            .output()
            .await?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        let complaint = || format!("pgbench failed: {}{stderr}", String::from_utf8_lossy(&output.stdout));
        anyhow::ensure!(output.status.success(), complaint());
        // Such as `progress: 3.0 s, 1042.1 tps, lat …`.
        let rates = stderr.lines().rev().filter_map(|line| {
            line.strip_prefix("progress: ")?.split_once(" s, ")?.1.split(' ').next()?.parse::<f64>().ok()
        });
        let last: Vec<f64> = rates.take(measured).collect();
        anyhow::ensure!(last.len() == measured, complaint());
        let rate = last.iter().sum::<f64>() / measured as f64;
        let mut latencies = self.latencies()?;
        latencies.sort_unstable();
        let p50 = latencies.get(latencies.len() / 2).map_or(f64::NAN, |&micros| f64::from(micros) / 1e3);
        Ok(Measured { rate, p50 })
    }

    fn logs(&self) -> anyhow::Result<Vec<PathBuf>> {
        let files = std::fs::read_dir(&self.scripts)?.filter_map(|entry| Some(entry.ok()?.path()));
        Ok(files
            .filter(|path| {
                path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("transactions"))
            })
            .collect())
    }

    fn forget_logs(&self) -> anyhow::Result<()> {
        for path in self.logs()? {
            std::fs::remove_file(path)?;
        }
        Ok(())
    }

    /// Of every transaction, in microseconds.
    fn latencies(&self) -> anyhow::Result<Vec<u32>> {
        let mut latencies = Vec::new();
        for path in self.logs()? {
            let text = std::fs::read_to_string(path)?;
            latencies.extend(text.lines().filter_map(|line| line.split(' ').nth(2)?.parse::<u32>().ok()));
        }
        self.forget_logs()?;
        Ok(latencies)
    }
}
