//! Old changes go, and nobody who reads is left with a gap that is not announced.

use std::sync::Arc;
use std::time::Duration;

use booking_service::seating::{Seating, SeatingConfig};
use booking_service::store::changes;
use booking_service::worker::{Retention, Worker};
use rowlock_proto::booking::v1 as pb;
use service_core::clock::SystemClock;
use service_core::database::connect_options;
use service_core::ids::{IdSource, UuidV7};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Told, assert_gapless, change, logged, places, some_history};
use crate::acts::{ask, draft};
use crate::refusal::assert_refused;
use crate::system::{System, eventually};
use crate::watch::next;

const DAY: Duration = Duration::from_secs(86_400);

/// Makes everything that the log has older by two days.
async fn age(system: &System) {
    sqlx::query("UPDATE changes SET change_time = change_time - interval '2 days'")
        .execute(&system.pool)
        .await
        .unwrap();
}

/// Trims in pieces of so many changes. All of them are final.
async fn trim(system: &System, piece: i64) {
    while changes::trim(&system.pool, DAY, i64::MAX, piece).await.unwrap() == piece {}
}

async fn kept(system: &System, event: &pb::Event) -> Vec<i64> {
    system.log(event).await.into_iter().map(|(version, ..)| version).collect()
}

async fn consistent(system: &System, event: &pb::Event) -> bool {
    system.admin().verify(event).await.unwrap().consistent
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_change_of_each_event_stays_and_what_stays_has_no_gaps() {
    let system = System::start().await;
    for piece in [1, 3, 1_000] {
        let events = some_history(&system).await;
        let last = [kept(&system, &events[0]).await, kept(&system, &events[1]).await]
            .map(|all| i64::try_from(all.len()).unwrap());
        age(&system).await;
        trim(&system, piece).await;
        for (event, last) in events.iter().zip(last) {
            assert_eq!(kept(&system, event).await, [last]);
            assert!(consistent(&system, event).await);
        }
        // Life goes on; what is young stays.
        let people = system.attendees(3);
        for (event, last) in events.iter().zip(last) {
            let entry = people[0].join(event).await.unwrap();
            people[0].leave(&entry.entry_id).await.unwrap();
            trim(&system, piece).await;
            assert_eq!(kept(&system, event).await, [last, last + 1, last + 2]);
        }
        assert_gapless(&system.service().read("", "").await.unwrap());
        age(&system).await;
        people[1].join(&events[0]).await.unwrap();
        trim(&system, piece).await;
        // What was once the last goes with what came after it.
        assert_eq!(kept(&system, &events[0]).await, [last[0] + 3]);
        assert_eq!(kept(&system, &events[1]).await, [last[1] + 2]);
        for event in &events {
            assert!(consistent(&system, event).await);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_young_is_not_passed_though_what_comes_after_it_says_that_it_is_old() {
    let system = System::start().await;
    let [one, other] = some_history(&system).await;
    let all = logged(&system).await;
    // As where a clock was set back in between.
    sqlx::query(
        "UPDATE changes SET change_time = change_time - interval '2 days' WHERE batch <> (SELECT min(batch) FROM changes)",
    )
    .execute(&system.pool)
    .await
    .unwrap();
    trim(&system, 1_000).await;
    assert_eq!(logged(&system).await, all);
    // A clock that was years ahead holds up nothing.
    sqlx::query(
        "UPDATE changes SET change_time = change_time + interval '2 years' WHERE batch = (SELECT min(batch) FROM changes)",
    )
    .execute(&system.pool)
    .await
    .unwrap();
    trim(&system, 1_000).await;
    assert_eq!((kept(&system, &one).await.len(), kept(&system, &other).await.len()), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_good_as_long_as_nothing_after_it_is_gone() {
    let system = System::start().await;
    let [one, _] = some_history(&system).await;
    let reader = system.service();
    let told = reader.read("", "").await.unwrap();
    let of_one = reader.read("", &one.event_id).await.unwrap();
    age(&system).await;
    // In pieces of one, so that the floor stands at every change once, in the middle of batches too.
    for (passed, message) in told.iter().enumerate() {
        let before = logged(&system).await.len();
        assert_eq!(changes::trim(&system.pool, DAY, i64::MAX, 1).await.unwrap(), 1);
        let gone = before - logged(&system).await.len();
        assert!(gone <= 1);
        for (index, at) in told.iter().enumerate() {
            let answer = reader.read(&at.resume_token, "").await;
            if index < passed {
                assert_refused(&answer.unwrap_err(), "RESUME_TOKEN_EXPIRED");
            } else {
                assert_eq!(
                    answer.unwrap(),
                    told[index + 1..].iter().map(older).collect::<Vec<_>>(),
                    "{message:?}"
                );
            }
        }
    }
    let first = kept(&system, &one).await[0];
    for at in &of_one {
        let answer = reader.read(&at.resume_token, &one.event_id).await;
        if change(at).version + 1 < first {
            assert_refused(&answer.unwrap_err(), "RESUME_TOKEN_EXPIRED");
        } else {
            assert!(answer.is_ok());
        }
    }
    // Who begins anew is told what has not been passed, whatever is kept of that, and goes on from any of it.
    assert_eq!(reader.read("", "").await.unwrap(), []);
    let passed = logged(&system).await.len();
    assert!(passed > 0);
    some_history(&system).await;
    let anew = reader.read("", "").await.unwrap();
    assert_eq!(places(&anew), logged(&system).await.split_off(passed));
    for (index, at) in anew.iter().enumerate() {
        assert_eq!(reader.read(&at.resume_token, "").await.unwrap(), anew[index + 1..]);
    }
}

/// The same, two days older.
fn older(told: &Told) -> Told {
    let mut told = told.clone();
    let change = told.change.as_mut().unwrap();
    change.change_time.as_mut().unwrap().seconds -= 2 * 86_400;
    told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_overtaken_by_retention_says_so() {
    let system = System::start().await;
    let event = system.event(1_000_000).await;
    system.seat_many(&event, 1_500).await;
    let reader = system.service().slow_reader_at(&system.replicas[0], 4_096).await;
    for event_id in ["", &event.event_id] {
        let mut stream = reader.stream("", event_id, false).await.unwrap();
        let mut told = vec![next(&mut stream).await.unwrap().unwrap()];
        if event_id.is_empty() {
            age(&system).await;
        }
        system.seat_many(&event, 1_500).await;
        if !event_id.is_empty() {
            age(&system).await;
        }
        trim(&system, 700).await;
        let end = loop {
            match next(&mut stream).await {
                Ok(Some(message)) => told.push(message),
                end => break end,
            }
        };
        assert_gapless(&told);
        assert_refused(&end.unwrap_err(), "RESUME_TOKEN_EXPIRED");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_stream_has_a_gap_while_the_log_is_trimmed() {
    let system = System::with_replicas(2).await;
    let events = [system.event(1_000_000).await, system.event(1_000_000).await];
    let reader = system.service();
    let trimming = async {
        for event in events.iter().cycle().take(6) {
            system.rush(150, ask(event)).await;
            age(&system).await;
            trim(&system, 37).await;
        }
    };
    let reading = async {
        let (mut token, mut told, mut expired) = (String::new(), Vec::new(), 0);
        loop {
            match reader.read(&token, "").await {
                Ok(more) => told.extend(more),
                Err(status) => {
                    assert_refused(&status, "RESUME_TOKEN_EXPIRED");
                    expired += 1;
                    told.clear();
                }
            }
            assert_gapless(&told);
            token = told.last().map(|last: &Told| last.resume_token.clone()).unwrap_or_default();
            tokio::task::yield_now().await;
            if expired > 1_000 {
                unreachable!("a token that was given just now is not old");
            }
        }
    };
    tokio::select! {
        () = trimming => {}
        () = reading => {}
    }
    for event in &events {
        assert!(consistent(&system, event).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_trimmed_that_a_transaction_which_is_still_open_may_come_before() {
    let system = System::start().await;
    let (long, other) = (system.event(5).await, system.event(5).await);
    // Somebody has drawn a number, and takes as long as others take to grow old.
    let mut open = system.pool.begin().await.unwrap();
    let fence = "UPDATE events SET fence = fence + 1 WHERE id = $1";
    sqlx::query(fence).bind(long.event_id.parse::<Uuid>().unwrap()).execute(&mut *open).await.unwrap();
    let drawn: i64 =
        sqlx::query_scalar("SELECT nextval('change_batches')").fetch_one(&mut *open).await.unwrap();
    let before = kept(&system, &other).await;
    system.attendee().seat(&other).await;
    age(&system).await;
    let floor = async || changes::floor(&system.pool).await.unwrap().batch;
    let mut retention = Retention::new(system.pool.clone(), DAY);
    retention.trim().await.unwrap();
    retention.trim().await.unwrap();
    assert!(floor().await < drawn);
    assert_eq!(kept(&system, &other).await.last(), before.last().map(|last| last + 1).as_ref());
    open.commit().await.unwrap();
    // Transactions of other tests, on the same server, are waited for as well.
    eventually(async || {
        retention.trim().await.unwrap();
        floor().await > drawn
    })
    .await;
    assert_eq!(kept(&system, &other).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn however_much_is_old_goes_at_once() {
    let system = System::start().await;
    let event = system.event(5).await;
    sqlx::query(
        "WITH e AS (UPDATE events SET version = 4500 WHERE id = $1 RETURNING id)
         INSERT INTO changes (event_id, version, actor_id, actor_role, action, entity_id, details, change_time, batch)
         SELECT id, version, '00000000-0000-0000-0000-000000000000', 'SYSTEM', 'EVENT_UPDATED', id, '{}',
                clock_timestamp(), nextval('change_batches') FROM e, generate_series(3, 4500) AS version",
    )
    .bind(event.event_id.parse::<Uuid>().unwrap())
    .execute(&system.pool)
    .await
    .unwrap();
    age(&system).await;
    eventually(async || {
        Retention::new(system.pool.clone(), DAY).trim().await.unwrap();
        let left = kept(&system, &event).await.len();
        // All of it or, while a transaction of another test is open, nothing.
        assert!([1, 4500].contains(&left), "{left}");
        left == 1
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_with_a_retention_trims_by_itself() {
    let system = System::start().await;
    let event = system.organizer().publish_new(draft(5)).await;
    system.attendee().seat(&event).await;
    age(&system).await;
    let ids: Arc<dyn IdSource> = Arc::new(UuidV7::new(Arc::new(SystemClock)));
    let session = connect_options(&system.database.config(), "rowlock-test");
    // Another replica's, that begins now, and once more as long as a transaction of another test is open: it is on the same
    // server.
    eventually(async || {
        let seating = Arc::new(Seating::start(&SeatingConfig::default(), &session, &ids));
        let worker = Worker { seating, pool: system.pool.clone(), change_retention: Some(DAY) };
        let stop = CancellationToken::new();
        let works = tokio::spawn(worker.run(stop.clone()));
        let trimmed = async {
            while kept(&system, &event).await != [3] {
                tokio::task::yield_now().await;
            }
        };
        let is_trimmed = tokio::time::timeout(Duration::from_secs(1), trimmed).await.is_ok();
        stop.cancel();
        works.await.unwrap();
        is_trimmed
    })
    .await;
    assert!(consistent(&system, &event).await);
}
