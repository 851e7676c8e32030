//! The test support itself.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use service_core::test_support::TestCluster;
use sqlx::migrate::Migrator;
use tokio::net::TcpStream;

use crate::bench::{eventually, until_left_alone};

pub(crate) static FIRST: Migrator = sqlx::migrate!("tests/core_it/migrations/first");

#[tokio::test]
async fn every_test_gets_a_database_of_its_own_with_the_schema() {
    let (one, two) =
        tokio::join!(TestCluster::database("core", &FIRST), TestCluster::database("core", &FIRST));
    assert_ne!(one.name, two.name);
    let pool = one.pool(2);
    sqlx::query("DELETE FROM things").execute(&pool).await.unwrap();
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM things").fetch_one(&two.pool(1)).await.unwrap();
    assert_eq!(left, 2);
}

/// Not a test of its own: what the test below runs in a process that it kills.
#[tokio::test]
#[ignore = "waits to be killed"]
async fn holds_a_cluster() {
    let database = TestCluster::database("core", &FIRST).await;
    let folder: String =
        sqlx::query_scalar("SHOW data_directory").fetch_one(&database.pool(1)).await.unwrap();
    println!("held {} {folder}", database.url);
    until_left_alone().await;
}

#[tokio::test]
async fn a_killed_test_process_leaves_neither_server_nor_folder_behind() {
    if std::env::var_os("ROWLOCK_TEST_DATABASE_URL").is_some() {
        return;
    }
    let mut holder = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "cluster::holds_a_cluster", "--ignored", "--nocapture"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(holder.stdout.take().unwrap()).lines();
    let held =
        lines.find_map(|line| line.unwrap().split_once("held ").map(|(_, held)| held.to_owned())).unwrap();
    let (url, folder) = held.split_once(' ').unwrap();
    let address = url.rsplit_once('@').unwrap().1.split_once('/').unwrap().0;
    let folder = std::path::Path::new(folder).parent().unwrap();
    assert!(TcpStream::connect(address).await.is_ok() && folder.is_dir());
    holder.kill().unwrap();
    holder.wait().unwrap();
    eventually(async || TcpStream::connect(address).await.is_err() && !folder.exists()).await;
}
