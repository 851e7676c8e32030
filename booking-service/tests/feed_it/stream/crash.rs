//! One process of the database's server crashes: the server recovers, without having been started again.

use std::process::Command;

use booking_service::MIGRATOR;
use service_core::test_support::TestServer;
use sqlx::{Connection, PgConnection};

use super::{places, take};
use crate::refusal::assert_refused;
use crate::system::{System, eventually};
use crate::watch::next;

/// Waits until the tailer has looked at the log once more.
async fn looked(system: &System) {
    let mut session = PgConnection::connect(&system.database.url).await.unwrap();
    let begins = sqlx::query_scalar("SELECT clock_timestamp()::text");
    let begins: String = begins.fetch_one(&mut session).await.unwrap();
    eventually(async || {
        let look = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()
                       AND query LIKE '%last_batch%' AND pid <> pg_backend_pid() AND query_start > $1::timestamptz)";
        sqlx::query_scalar(look).bind(&begins).fetch_one(&mut session).await.unwrap()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_follows_hears_of_a_number_that_comes_again_after_a_crash() {
    let server = TestServer::start(&[]);
    let system = System::over(server.database("booking", &MIGRATOR).await, 1, |_| {}).await;
    let event = system.event(10).await;
    let mut follower = system.service().stream("", "", true).await.unwrap();
    let token = take(&mut follower, 2).await[1].resume_token.clone();
    // A batch that comes to nothing, and whose number is final: of that nothing has to reach the disk.
    let mut batch = PgConnection::connect(&system.database.url).await.unwrap();
    let number: i64 =
        sqlx::query_scalar("SELECT nextval('change_batches')").fetch_one(&mut batch).await.unwrap();
    for _ in 0..3 {
        looked(&system).await;
    }
    let mut witness = PgConnection::connect(&system.database.url).await.unwrap();
    let process: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut batch).await.unwrap();
    assert!(Command::new("kill").args(["-9", &process.to_string()]).status().unwrap().success());
    // The server ends all sessions when it hears of it, and lets nobody in before it has recovered.
    eventually(async || witness.ping().await.is_err()).await;
    eventually(async || PgConnection::connect(&system.database.url).await.is_ok()).await;
    // Whether the number was lost is a matter of moments. Here it was.
    let mut recovered = PgConnection::connect(&system.database.url).await.unwrap();
    let lost = sqlx::query("SELECT setval('change_batches', $1)").bind(number - 1);
    lost.execute(&mut recovered).await.unwrap();
    looked(&system).await;
    eventually(async || system.attendee().register(&event).await.is_ok()).await;
    let told = match next(&mut follower).await {
        Ok(told) => told.unwrap(),
        Err(end) => {
            // It was about to read, with a session that is gone.
            assert_refused(&end, "DATABASE_UNAVAILABLE");
            let mut resumed = system.service().stream(&token, "", true).await.unwrap();
            next(&mut resumed).await.unwrap().unwrap()
        }
    };
    assert_eq!(places(&[told]), [(event.event_id.clone(), 3)]);
}
