//! Fault 12: programs of several releases on one database, which is migrated beside readers that take long.
//!
//! The old release is the binary. A later one is this test's own executable as another process: the same code with further
//! migrations.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use booking_service::cli::{self, Cli};
use booking_service::{MIGRATOR, commands};
use clap::Parser;
use sqlx::migrate::Migrator;
use sqlx::{Connection, Executor, PgConnection, PgPool};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::child::binary;
use crate::load::Load;
use crate::proving::Ordeal;
use crate::stage::{Stage, scale};
use crate::system::eventually;

/// What the releases after this one add, one migration each: a column, and an index that is built while the table is in use.
static LATER: Migrator = sqlx::migrate!("tests/faults/releases");

const ARGUMENTS: &str = "LATER_RELEASE_ARGUMENTS";
const RELEASE: &str = "LATER_RELEASE";

/// The longest that nobody may be answered: the 2 s that a migration waits for a lock, and as long as two cores take to
/// wake everybody up who waited behind it.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Not a test of its own: a later release, in a process that the test below starts.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "a process of the test below"]
async fn a_later_release() {
    let Ok(arguments) = std::env::var(ARGUMENTS) else { return };
    let release = std::env::var(RELEASE).unwrap().parse().unwrap();
    let migrations = MIGRATOR.iter().chain(LATER.iter().take(release)).cloned().collect();
    let schema: &'static Migrator = Box::leak(Box::new(Migrator::with_migrations(migrations)));
    match Cli::parse_from(arguments.split('\n')).command {
        cli::Command::Serve(args) => Box::pin(commands::serve(*args, schema)).await.unwrap(),
        cli::Command::Migrate(args) => commands::migrate(*args, schema).await.unwrap(),
        other => panic!("{other:?}"),
    }
}

/// What would run the binary, for a later release.
fn of_release(release: usize, command: &Command) -> Command {
    let mut later = Command::new(std::env::current_exe().unwrap());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => later.env(name, value),
            None => later.env_remove(name),
        };
    }
    let arguments = command.get_args().map(|argument| argument.to_str().unwrap());
    let arguments: Vec<&str> = std::iter::once("booking-service").chain(arguments).collect();
    later
        .args(["--exact", "releases::a_later_release", "--ignored", "--nocapture"])
        .env(ARGUMENTS, arguments.join("\n"))
        .env(RELEASE, release.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    later
}

fn migrate(release: usize, stage: &Stage) -> Child {
    let mut command = binary(&["migrate"]);
    command.env("ROWLOCK_DATABASE_URL", &stage.database.url);
    of_release(release, &command).stderr(Stdio::null()).spawn().unwrap()
}

async fn succeeds(mut migration: Child) {
    eventually(async || migration.try_wait().unwrap().is_some()).await;
    assert!(migration.wait().unwrap().success());
}

/// A transaction that has read, and keeps what it saw.
async fn long_reader(stage: &Stage) -> PgConnection {
    let mut reader = PgConnection::connect(&stage.database.url).await.unwrap();
    reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ").await.unwrap();
    reader.execute("SELECT count(*) FROM events, registrations").await.unwrap();
    reader
}

/// The sessions of migrations that wait for a lock.
async fn waiting(pool: &PgPool) -> i64 {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'rowlock-migrate' AND wait_event_type = 'Lock'";
    sqlx::query_scalar(sql).fetch_one(pool).await.unwrap()
}

async fn migrating(pool: &PgPool) -> i64 {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'rowlock-migrate'";
    sqlx::query_scalar(sql).fetch_one(pool).await.unwrap()
}

/// Whether the later index is there, and good.
async fn index(pool: &PgPool) -> Option<bool> {
    let sql = "SELECT indisvalid AND indisready FROM pg_index WHERE indexrelid = to_regclass('registrations_by_time')";
    sqlx::query_scalar(sql).fetch_optional(pool).await.unwrap()
}

/// Watches the answers that come: the longest time without any, until it is told to stop.
fn longest_pause(answered: Arc<AtomicUsize>, stop: CancellationToken) -> tokio::task::JoinHandle<Duration> {
    tokio::spawn(async move {
        let (mut seen, mut since, mut longest) = (0, Instant::now(), Duration::ZERO);
        while !stop.is_cancelled() {
            let now = answered.load(Ordering::Relaxed);
            if now != seen {
                (seen, since) = (now, Instant::now());
            }
            longest = longest.max(since.elapsed());
            sleep(Duration::from_millis(5)).await;
        }
        longest
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "a fault: deploy/local/test faults"]
async fn a_migration_beside_long_readers_lets_programs_of_both_releases_go_on() {
    let (rounds, mut longest, mut steps_back) = (scale(), Duration::ZERO, 0);
    for _ in 0..rounds {
        let mut stage = Stage::with_replicas(2).await;
        let release = Arc::new(AtomicUsize::new(0));
        stage.started_with({
            let release = Arc::clone(&release);
            move |_, command| match release.load(Ordering::Relaxed) {
                0 => {}
                later => *command = of_release(later, command),
            }
        });
        let crowd = stage.crowd(stage.ways()).await;
        let ordeal = Ordeal::begin(&stage, crowd.clone());
        eventually(async || crowd.answered.load(Ordering::Relaxed) > 100).await;
        let stop = CancellationToken::new();
        let pauses = longest_pause(Arc::clone(&crowd.answered), stop.clone());

        // A column, which needs the lock of the whole table: it steps back, and is there when the reader has gone.
        let reader = long_reader(&stage).await;
        let column = migrate(1, &stage);
        for _ in 0..2 {
            eventually(async || waiting(&stage.pool).await == 1).await;
            eventually(async || waiting(&stage.pool).await == 0).await;
            steps_back += 1;
        }
        drop(reader);
        succeeds(column).await;
        release.store(1, Ordering::Relaxed);
        stage.add_replicas(1).await;
        let more = crate::load::Crowd { front: stage.ways(), ..crowd.clone() };
        let mut more = Load::with_journal(more, Arc::clone(&ordeal.load.journal));

        // An index, by a program that is killed while it waits for the reader, and then by two at once.
        let reader = long_reader(&stage).await;
        let mut killed = migrate(2, &stage);
        eventually(async || waiting(&stage.pool).await == 1 && index(&stage.pool).await.is_some()).await;
        killed.kill().unwrap();
        killed.wait().unwrap();
        eventually(async || migrating(&stage.pool).await == 0).await;
        assert_eq!(index(&stage.pool).await, Some(false));
        let both = [migrate(2, &stage), migrate(2, &stage)];
        eventually(async || waiting(&stage.pool).await == 1 && migrating(&stage.pool).await == 2).await;
        drop(reader);
        for migration in both {
            succeeds(migration).await;
        }
        assert_eq!(index(&stage.pool).await, Some(true));
        stop.cancel();
        longest = longest.max(pauses.await.unwrap());

        // One of the old is replaced by the newest.
        release.store(2, Ordering::Relaxed);
        assert_eq!(stage.stop(0, "-TERM"), Some(0));
        stage.start(0);
        stage.ready().await;
        more.end().await;
        let figures = format!(
            ", {steps_back} times a migration stepped back, at most {longest:.1?} without an answer to anybody"
        );
        let fault = "12, migrations beside long readers, programs of three releases at once";
        ordeal.prove_with(&stage, fault, 3, &figures).await;
        assert!(longest < LONGEST_PAUSE, "{longest:?}");
        stage.end();
    }
}
