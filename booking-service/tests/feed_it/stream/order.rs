//! Numbers are drawn in order and committed out of order.

use booking_service::feed::Feed;
use sqlx::{Connection, PgConnection};
use tokio_util::sync::CancellationToken;

use super::{assert_gapless, logged, places, take};
use crate::proof::id;
use crate::system::{System, eventually};
use crate::watch::next;

/// Locks an event as a batch does.
async fn lock(connection: &mut PgConnection, event_id: &str) {
    sqlx::query("SELECT FROM events WHERE id = $1 FOR UPDATE")
        .bind(id(event_id))
        .execute(connection)
        .await
        .unwrap();
}

async fn draw(connection: &mut PgConnection) -> i64 {
    sqlx::query_scalar("SELECT nextval('change_batches')").fetch_one(connection).await.unwrap()
}

/// Writes the event's next change as a batch does.
async fn write(connection: &mut PgConnection, event_id: &str, batch: i64) {
    sqlx::query(
        "WITH e AS (UPDATE events SET version = version + 1 WHERE id = $1 RETURNING id, version)
         INSERT INTO changes (event_id, version, actor_id, actor_role, action, entity_id, details, change_time, batch)
         SELECT id, version, '00000000-0000-0000-0000-000000000000', 'SYSTEM', 'EVENT_UPDATED', id, '{}',
                clock_timestamp(), $2 FROM e",
    )
    .bind(id(event_id))
    .bind(batch)
    .execute(connection)
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_committed_late_is_not_passed_over() {
    let system = System::start().await;
    let (slow, quick) = (system.event(10).await, system.event(10).await);
    let mut follower = system.service().stream("", "", true).await.unwrap();
    let mut told = take(&mut follower, 4).await;
    let mut watch = system.attendee().watch(&quick).await.unwrap();
    next(&mut watch).await.unwrap();
    let mut watch_slow = system.attendee().watch(&slow).await.unwrap();
    let mut version = next(&mut watch_slow).await.unwrap().unwrap().version;

    let mut foreign = system.pool.acquire().await.unwrap();
    for round in 0..3 {
        let mut late = foreign.begin().await.unwrap();
        lock(&mut late, &slow.event_id).await;
        let batch = draw(&mut late).await;
        for _ in 0..2 {
            system.attendee().seat(&quick).await;
            // The tailer has been there since, and knows of a number beyond the one that is open.
            assert!(next(&mut watch).await.unwrap().unwrap().version > 2 + 2 * round);
        }
        write(&mut late, &slow.event_id, batch).await;
        late.commit().await.unwrap();
        version += 1;
        assert_eq!(next(&mut watch_slow).await.unwrap().unwrap().version, version, "watches neither");
        told.extend(take(&mut follower, 3).await);
        assert_eq!(places(&told), logged(&system).await);
    }
    assert_gapless(&told);
    assert_eq!(system.service().read("", "").await.unwrap(), told);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_listens_after_nobody_did_does_not_take_the_past_for_the_present() {
    let system = System::start().await;
    system.event(10).await;
    let (feed, stop) = (Feed::default(), CancellationToken::new());
    let running = tokio::spawn(feed.clone().run(system.pool.clone(), stop.clone()));
    feed.horizon().wait_for(|horizon| horizon.batch > 0).await.unwrap();
    // As soon as the tailer has seen that nobody listens any more.
    eventually(async || feed.horizon().borrow().batch == 0).await;
    stop.cancel();
    running.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_began_earlier_and_wrote_later_comes_later() {
    let system = System::start().await;
    let (one, other) = (system.event(10).await, system.event(10).await);
    let mut follower = system.service().stream("", "", true).await.unwrap();
    let mut told = take(&mut follower, 4).await;
    let mut watch = system.attendee().watch(&other).await.unwrap();
    next(&mut watch).await.unwrap();

    let mut foreign = system.pool.acquire().await.unwrap();
    for round in 0..3 {
        // The first lock gives the transaction its id; the second is had after others with higher ids have changed that event.
        let mut early = foreign.begin().await.unwrap();
        lock(&mut early, &one.event_id).await;
        system.attendee().seat(&other).await;
        assert!(next(&mut watch).await.unwrap().unwrap().version > 2 + 2 * round);
        lock(&mut early, &other.event_id).await;
        let batch = draw(&mut early).await;
        for event in [&one, &other] {
            write(&mut early, &event.event_id, batch).await;
        }
        early.commit().await.unwrap();
        next(&mut watch).await.unwrap();
        told.extend(take(&mut follower, 3).await);
    }
    assert_eq!(places(&told), logged(&system).await);
    assert_gapless(&told);
    assert_eq!(system.service().read("", "").await.unwrap(), told);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_is_rolled_back_holds_nothing_up_for_good() {
    let system = System::start().await;
    let (slow, quick) = (system.event(10).await, system.event(10).await);
    let mut follower = system.service().stream("", "", true).await.unwrap();
    take(&mut follower, 4).await;
    let mut of_event = system.service().stream("", &quick.event_id, true).await.unwrap();
    take(&mut of_event, 2).await;
    let mut foreign = system.pool.acquire().await.unwrap();
    let mut open = foreign.begin().await.unwrap();
    lock(&mut open, &slow.event_id).await;
    let batch = draw(&mut open).await;
    write(&mut open, &slow.event_id, batch).await;
    system.attendee().seat(&quick).await;
    // One event's changes are committed in order: nobody else's transaction concerns them.
    assert_eq!(places(&take(&mut of_event, 1).await), [(quick.event_id.clone(), 3)]);
    open.rollback().await.unwrap();
    assert_eq!(places(&take(&mut follower, 1).await), [(quick.event_id.clone(), 3)]);
}
