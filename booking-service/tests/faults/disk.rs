//! Fault 8: the disk is full.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use service_core::test_support::TestServer;
use sqlx::{Connection, Executor, PgConnection};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::proving::Ordeal;
use crate::report;
use crate::stage::{Stage, scale};

/// Within which a server that is there answers, or listens.
const ANSWER: Duration = Duration::from_secs(2);

/// Writes until nothing more fits.
fn fill(file: &PathBuf) {
    use std::io::Write;
    let mut file = std::fs::File::create(file).unwrap();
    for size in [1 << 20, 1 << 12, 1] {
        let block = vec![0_u8; size];
        while file.write(&block).is_ok_and(|written| written > 0) {}
    }
}

/// Waits until the server answers a statement, and starts it whenever it is gone. Gives how often it was.
async fn back(stage: &mut Stage) -> usize {
    let (mut died, mut gone) = (0, None);
    let answers = async |url: &str| PgConnection::connect(url).await?.execute("SELECT 1").await.map(drop);
    while !matches!(timeout(ANSWER, answers(&stage.database.url)).await, Ok(Ok(()))) {
        // While it recovers it listens, and refuses sessions.
        if TcpStream::connect(("127.0.0.1", stage.server.port())).await.is_ok() {
            gone = None;
        } else if gone.get_or_insert_with(Instant::now).elapsed() > ANSWER {
            stage.server.restart();
            (died, gone) = (died + 1, None);
        }
        sleep(Duration::from_millis(100)).await;
    }
    died
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "a fault: deploy/local/test faults"]
async fn a_disk_that_is_full_is_an_outage_that_ends_when_there_is_room_again() {
    let settings = ["max_wal_size=32MB", "min_wal_size=32MB", "checkpoint_timeout=30s"];
    let Some(server) = TestServer::on_a_small_disk("320m", &settings) else {
        report::skipped("8, disk full", "only root can make a small disk");
        return;
    };
    let mut stage = Stage::empty(server).await;
    // Shorter than the outage, so that it is told of.
    stage.started_with(|_, command| {
        command.args(["--retry-window", "1s"]);
    });
    stage.add_replicas(2).await;
    let folder: String = sqlx::query_scalar("SHOW data_directory").fetch_one(&stage.pool).await.unwrap();
    let filler = PathBuf::from(folder).join("filler");
    let ordeal = Ordeal::begin(&stage, stage.crowd(stage.ways()).await);
    let times = scale() as usize;
    let mut died = 0;
    for _ in 0..times {
        sleep(Duration::from_secs(1)).await;
        fill(&filler);
        // With so little left, a server that cannot write its log ends itself rather than lose something.
        sqlx::raw_sql("SELECT pg_switch_wal()").execute(&stage.pool).await.ok();
        sleep(Duration::from_secs(3)).await;
        std::fs::remove_file(&filler).unwrap();
        died += back(&mut stage).await;
        stage.ready().await;
    }
    sleep(Duration::from_secs(1)).await;
    let told = ordeal.load.journal.times("DATABASE_UNAVAILABLE");
    let figures = format!(", the server ended itself {died} times, {told} calls were told of the outage");
    ordeal.prove_with(&stage, "8, disk of the database full", times, &figures).await;
    assert!(told + died > 0, "nobody noticed that the disk was full");
    stage.end();
}
