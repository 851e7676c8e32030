//! Fault 8: the disk is full.

use std::path::PathBuf;
use std::time::Duration;

use service_core::test_support::TestServer;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::proving::Ordeal;
use crate::report::{self, Counts};
use crate::stage::{Stage, scale};

/// Writes until nothing more fits.
fn fill(file: &PathBuf) {
    use std::io::Write;
    let mut file = std::fs::File::create(file).unwrap();
    for size in [1 << 20, 1 << 12, 1] {
        let block = vec![0_u8; size];
        while file.write(&block).is_ok_and(|written| written > 0) {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "a fault: deploy/local/test faults"]
async fn a_disk_that_is_full_is_an_outage_that_ends_when_there_is_room_again() {
    let settings = ["max_wal_size=32MB", "min_wal_size=32MB", "checkpoint_timeout=30s"];
    let Some(server) = TestServer::on_a_small_disk("320m", &settings) else {
        report::tell("8, disk full", 0, &Counts::default(), "SKIPPED, only root can make a small disk");
        return;
    };
    let mut stage = Stage::empty(server).await;
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
        let address = ("127.0.0.1", stage.server.port());
        let back = async {
            while TcpStream::connect(address).await.is_err() {
                sleep(Duration::from_millis(100)).await;
            }
        };
        if timeout(Duration::from_secs(3), back).await.is_err() {
            died += 1;
            stage.server.restart();
        }
        stage.ready().await;
    }
    sleep(Duration::from_secs(1)).await;
    let figures = format!(", the server ended itself {died} times");
    ordeal.prove_with(&stage, "8, disk of the database full", times, &figures).await;
    stage.end();
}
