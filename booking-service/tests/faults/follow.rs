//! Those who look on: a backend that copies the change stream, and people who watch an event.

use std::time::Duration;

use rowlock_proto::booking::v1 as pb;
use sqlx::PgPool;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use crate::caller::Caller;
use crate::copy::{Copy, tables};

/// How long one stream is read before it is opened anew: some of them in the middle of what happens.
const LIFE: Duration = Duration::from_secs(5);

/// Follows the change stream until it is told to stop, from one way to the service to the next.
pub(crate) struct Follower {
    stop: CancellationToken,
    task: JoinHandle<(Copy, usize)>,
}

impl Follower {
    pub(crate) fn start(ways: Vec<Caller>) -> Self {
        let stop = CancellationToken::new();
        let until = stop.clone();
        let task = tokio::spawn(async move {
            let (mut copy, mut opened) = (Copy::default(), 0);
            while !until.is_cancelled() {
                let way = &ways[opened % ways.len()];
                opened += 1;
                let reading = timeout(LIFE, read(way, &mut copy, true));
                let _ = until.run_until_cancelled(reading).await;
                let _ = until.run_until_cancelled(sleep(Duration::from_millis(50))).await;
            }
            (copy, opened)
        });
        Self { stop, task }
    }

    /// Whether it gave up: what it was told cannot be.
    pub(crate) fn has_ended(&self) -> bool {
        self.task.is_finished()
    }

    /// What its copy and the tables differ in, once it has read to the end, and how many streams it took.
    pub(crate) async fn end(self, way: &Caller, pool: &PgPool, patience: Duration) -> (Vec<String>, usize) {
        self.stop.cancel();
        let (mut copy, opened) = match self.task.await {
            Ok(ended) => ended,
            Err(error) => return (vec![format!("the change stream: {error}")], 0),
        };
        let caught_up = async {
            loop {
                let last: Vec<(String, i64)> =
                    sqlx::query_as("SELECT id::text, version FROM events").fetch_all(pool).await.unwrap();
                let knows = |(event, version): &(String, i64)| copy.versions.get(event) == Some(version);
                if last.iter().all(knows) {
                    return;
                }
                if read(way, &mut copy, false).await.is_err() {
                    sleep(Duration::from_millis(100)).await;
                }
            }
        };
        if timeout(patience, caught_up).await.is_err() {
            return (vec!["the change stream does not reach the end".to_owned()], opened);
        }
        let (copied, table) = (copy.rows(), tables(pool).await);
        let wrong: Vec<String> = copied
            .iter()
            .filter(|row| table.binary_search(row).is_err())
            .map(|row| format!("the feed says {row:?}"))
            .chain(
                table
                    .iter()
                    .filter(|row| copied.binary_search(row).is_err())
                    .map(|row| format!("the table says {row:?}")),
            )
            .collect();
        (wrong, opened)
    }
}

async fn read(way: &Caller, copy: &mut Copy, follow: bool) -> Result<(), Status> {
    let request = pb::StreamChangesRequest { resume_token: copy.token.clone(), follow, ..Default::default() };
    let mut stream = way.changes().stream_changes(request).await?.into_inner();
    while let Some(told) = stream.message().await? {
        copy.apply(told);
    }
    Ok(())
}

/// Watches an event until it is told to stop, opening the watch again whenever it ends.
pub(crate) struct Watcher {
    event_id: String,
    last: tokio::sync::watch::Receiver<i64>,
    task: JoinHandle<(Vec<String>, usize)>,
    stop: CancellationToken,
}

impl Watcher {
    pub(crate) fn start(event: &pb::Event, ways: Vec<Caller>) -> Self {
        let (stop, event_id) = (CancellationToken::new(), event.event_id.clone());
        let (until, request) = (stop.clone(), pb::WatchEventRequest { event_id: event_id.clone() });
        let (seen, last) = tokio::sync::watch::channel(0);
        let task = tokio::spawn(async move {
            let mut wrong = Vec::new();
            let mut opened = 0;
            while !until.is_cancelled() {
                let way = &ways[opened % ways.len()];
                opened += 1;
                let watch = async {
                    let answer = way.events().watch_event(request.clone()).await?;
                    let mut stream: Streaming<pb::WatchEventResponse> = answer.into_inner();
                    while let Some(now) = stream.message().await? {
                        let before = seen.send_replace(now.version);
                        if now.version < before {
                            wrong.push(format!("a watch goes back from {before} to {}", now.version));
                        }
                        if !(0..=now.capacity).contains(&now.seats_remaining) {
                            wrong.push(format!("a watch tells {now:?}"));
                        }
                    }
                    Ok::<(), Status>(())
                };
                let _ = until.run_until_cancelled(watch).await;
                let _ = until.run_until_cancelled(sleep(Duration::from_millis(50))).await;
            }
            (wrong, opened)
        });
        Self { event_id, last, task, stop }
    }

    /// The last version that it was told; 0 before the first.
    pub(crate) fn version(&self) -> i64 {
        *self.last.borrow()
    }

    /// Everything that it was told wrongly, or not at all: in the end it has to know the present. And how many watches it
    /// took.
    pub(crate) async fn end(mut self, pool: &PgPool, patience: Duration) -> (Vec<String>, usize) {
        let version: i64 = sqlx::query_scalar("SELECT version FROM events WHERE id = $1")
            .bind(crate::proof::id(&self.event_id))
            .fetch_one(pool)
            .await
            .unwrap();
        let told = timeout(patience, self.last.wait_for(|last| *last >= version)).await.is_ok();
        self.stop.cancel();
        let (mut wrong, opened) = self.task.await.unwrap();
        if !told {
            wrong.push(format!("a watch never tells version {version}"));
        }
        (wrong, opened)
    }
}
