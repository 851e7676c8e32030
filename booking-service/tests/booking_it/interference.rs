//! What others do to a call: hold its lock, hang up, end the replica.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use futures_util::future::{Either, join, join_all, select};
use rowlock_proto::booking::v1 as pb;
use rowlock_proto::booking::v1::register_response::Outcome;
use sqlx::{Postgres, Transaction};

use crate::acts::{ask, ask_or_queue, draft};
use crate::caller::Caller;
use crate::proof::id;
use crate::refusal::{assert_refused, refused};
use crate::system::{PATIENCE, System, at_once, eventually};

/// Has forty calls wait for the table of registrations, and gives them up, three times: no more than `most` of them have a
/// connection, those of whose statements `statement` is a part, and so others find one.
pub(crate) async fn connections_are_left<Call>(
    system: &System,
    statement: &'static str,
    most: i64,
    call: impl Fn(pb::Event) -> Call,
) where
    Call: Future<Output: Send> + Send + 'static,
{
    let event = system.event(1).await;
    let mut table = system.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE registrations").execute(&mut *table).await.unwrap();
    // (Who looks for what has lapsed waits as well.)
    let waiting = async || -> i64 {
        let waiting = "SELECT count(*) FROM pg_stat_activity
                        WHERE datname = current_database() AND wait_event_type = 'Lock' AND position($1 IN query) > 0";
        sqlx::query_scalar(waiting).bind(statement).fetch_one(&system.pool).await.unwrap()
    };
    for _ in 0..3 {
        let calls: Vec<_> = (0..40).map(|_| tokio::spawn(call(event.clone()))).collect();
        eventually(async || waiting().await >= most).await;
        system.attendee().get_event(&event).await.unwrap();
        let waiting = waiting().await;
        assert!(waiting <= most, "{waiting}");
        calls.iter().for_each(tokio::task::JoinHandle::abort);
    }
    table.rollback().await.unwrap();
}

/// Holds the event's row as a migration, a repair or a stuck client would.
pub(crate) async fn lock(system: &System, event: &pb::Event) -> Transaction<'static, Postgres> {
    let mut tx = system.pool.begin().await.unwrap();
    sqlx::query("SELECT FROM events WHERE id = $1 FOR UPDATE")
        .bind(id(&event.event_id))
        .execute(&mut *tx)
        .await
        .unwrap();
    tx
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_who_would_change_an_event_do_not_come_into_its_queue() {
    let system = System::start().await;
    let event = system.organizer().publish_new(draft(5)).await;
    let stranger = system.organizer();
    let held = lock(&system, &event).await;
    // Whoever is in the queue waits for the lock, until the deadline.
    refused(stranger.set_capacity(&event, 9).await, "ROLE_REQUIRED");
    refused(stranger.publish(&event).await, "ROLE_REQUIRED");
    refused(stranger.cancel_event(&event, "").await, "ROLE_REQUIRED");
    refused(stranger.delete_event(&event).await, "ROLE_REQUIRED");
    held.rollback().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_one_event_is_locked_by_somebody_else_the_others_go_on() {
    let system = System::with(1, |config| {
        config.seating.sessions = 1;
        config.seating.lock_timeout = Duration::from_millis(10);
        config.server.default_deadline = Duration::from_secs(5);
    })
    .await;
    let organizer = system.organizer();
    let (stuck, free) = (organizer.publish_new(draft(50)).await, organizer.publish_new(draft(50)).await);
    let held = lock(&system, &stuck).await;
    let people = system.attendees(30);
    let waiting = join_all(people.iter().map(|person| person.register(&stuck)));
    let others = async {
        for _ in 0..5 {
            system.attendee().seat(&free).await;
        }
    };
    // Polled first, so the thirty are sent before the others, on one connection.
    let (answers, ()) = join(waiting, others).await;
    for answer in answers {
        assert_refused(&answer.unwrap_err(), "DEADLINE_EXCEEDED");
    }
    let before = system.everything().await;
    held.rollback().await.unwrap();
    // Behind them in the line: when this is answered, they have been dropped or applied.
    refused(organizer.delete_event(&stuck).await, "STATE_CONFLICT");
    assert_eq!(system.everything().await, before, "whoever was told that it is too late has no seat");
    system.assert_consistent(&stuck).await;
    system.assert_consistent(&free).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_changes_nothing_is_answered_while_somebody_else_has_the_lock() {
    let system = System::with(1, |config| {
        config.seating.sessions = 1;
        config.server.default_deadline = Duration::from_secs(5);
    })
    .await;
    let event = system.event(1).await;
    let first = system.attendee();
    let request = pb::RegisterRequest { request_id: system.new_id().to_string(), ..ask(&event) };
    let seat = first.seats(request.clone()).await;
    let held = lock(&system, &event).await;
    for person in system.attendees(20) {
        refused(person.register(&event).await, "EVENT_FULL");
    }
    refused(first.register(&event).await, "ALREADY_REGISTERED");
    assert_eq!(first.seats(request).await, seat, "a repetition");
    refused(first.cancel(&seat.registration_id).await, "DEADLINE_EXCEEDED");
    held.rollback().await.unwrap();
    first.cancel(&seat.registration_id).await.unwrap();
    system.attendee().seat(&event).await;
    system.assert_consistent(&event).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seat_that_another_replica_gave_back_is_there_for_the_next_who_asks() {
    let system = System::with_replicas(2).await;
    let event = system.event(1).await;
    let mut seated = system.attendee();
    let mut seat = seated.seat(&event).await;
    for round in 0..50 {
        let (here, there) = (&system.replicas[round % 2], &system.replicas[1 - round % 2]);
        // The replica has read that it is sold out.
        refused(system.attendee().at(here).register(&event).await, "EVENT_FULL");
        refused(system.attendee().at(here).register(&event).await, "EVENT_FULL");
        seated.at(there).cancel(&seat.registration_id).await.unwrap();
        seated = system.attendee().at(here);
        seat = seated.seat(&event).await;
    }
    system.assert_consistent(&event).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_wait_for_a_lock_are_served_in_turn_when_it_is_free() {
    let system = System::with(1, |config| {
        config.seating.sessions = 1;
        config.seating.lock_timeout = Duration::from_millis(10);
    })
    .await;
    let event = system.event(1).await;
    let held = lock(&system, &event).await;
    let people = system.attendees(40);
    let mut calls = pin!(join_all(people.iter().map(|person| person.try_register(ask_or_queue(&event, 1)))));
    // All are sent, on one connection, before this is: when it is answered, they have arrived.
    let other = system.event(1);
    match select(calls.as_mut(), pin!(other)).await {
        Either::Left((answers, _)) => panic!("{answers:?}"),
        Either::Right((other, _)) => {
            system.attendee().seat(&other).await;
        }
    }
    held.rollback().await.unwrap();
    let outcomes: Vec<_> = calls.await.into_iter().map(Result::unwrap).collect();
    let seats = outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Registration(_))).count();
    assert_eq!(seats, 1);
    system.assert_consistent(&event).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_hangs_up_leaves_everything_right() {
    let system = System::with_replicas(3).await;
    let event = system.event(60).await;
    let rush = system.attendees(200).into_iter().enumerate().map(|(n, person)| {
        let event = event.clone();
        // Whoever hangs up does so on a connection of their own: HTTP/2 ends one that is reset too often.
        let person = Caller { channel: system.replicas[n % 3].connect(), ..person };
        async move {
            let patience = Duration::from_micros(u64::try_from(n).unwrap() * 500);
            let call = tokio::time::timeout(patience, person.try_register(ask_or_queue(&event, 1)));
            (person.clone(), call.await.ok().map(Result::unwrap))
        }
    });
    let answers = at_once(rush.collect::<Vec<_>>()).await;
    assert!(answers.iter().any(|(_, answer)| answer.is_none()), "some hang up");
    for replica in &system.replicas {
        // Behind them in the line, see above.
        let _ = system.attendee().at(replica).try_register(ask_or_queue(&event, 1)).await.unwrap();
    }
    for (person, answer) in &answers {
        match answer {
            Some(Outcome::Registration(made)) => {
                assert_eq!(person.registration(&made.registration_id).await.unwrap(), *made);
            }
            Some(Outcome::WaitlistEntry(made)) => {
                assert_eq!(person.entry(&made.entry_id).await.unwrap().position, made.position);
            }
            // Seated or not: the same request answers the same whichever way it went.
            None => {
                let rows = "SELECT (SELECT count(*) FROM registrations WHERE user_id = $1)
                                 + (SELECT count(*) FROM waitlist_entries WHERE user_id = $1)";
                let rows: i64 =
                    sqlx::query_scalar(rows).bind(person.id).fetch_one(&system.pool).await.unwrap();
                assert!(rows <= 1);
            }
        }
    }
    system.assert_consistent(&event).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_ends_answers_every_call_that_it_has_accepted() {
    let system = System::with(1, |config| config.seating.lock_timeout = Duration::from_millis(10)).await;
    let event = system.event(30).await;
    let held = lock(&system, &event).await;
    let people = system.attendees(50);
    let mut calls = pin!(join_all(people.iter().map(|person| person.try_register(ask_or_queue(&event, 1)))));
    // As above: when this is answered, they have arrived.
    let other = system.event(1);
    assert!(matches!(select(calls.as_mut(), pin!(other)).await, Either::Right(_)));
    let mut system = system;
    system.replicas[0].stop.cancel();
    let release = async {
        // It refuses others from now on, and waits for those.
        let address = system.replicas[0].http;
        crate::system::eventually(async || crate::system::get(address, "/readyz").await.0.contains(" 503"))
            .await;
        held.rollback().await.unwrap();
    };
    let (answers, ()) = tokio::time::timeout(PATIENCE, join(calls, release)).await.unwrap();
    let outcomes: Vec<_> = answers.into_iter().map(Result::unwrap).collect();
    let seats = outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Registration(_))).count();
    assert_eq!((outcomes.len(), seats), (50, 30));
    system.stop().await;
    let rows = "SELECT (SELECT count(*) FROM registrations WHERE event_id = $1)
                     + (SELECT count(*) FROM waitlist_entries WHERE event_id = $1)";
    assert_eq!(system.count(rows, &event).await, 50);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rush_on_a_replica_that_ends_is_answered_truly_to_the_last_call() {
    let mut system = System::with_replicas(2).await;
    let event = system.event(100).await;
    let people = system.attendees(150);
    let stop = system.replicas[0].stop.clone();
    let rush = people.clone().into_iter().enumerate().map(|(n, person)| {
        let (event, stop) = (event.clone(), stop.clone());
        async move {
            if n == 70 {
                stop.cancel();
            }
            person.register(&event).await
        }
    });
    let answers = at_once(rush.collect::<Vec<_>>()).await;
    let mut seated = 0;
    for answer in &answers {
        match answer {
            Ok(_) => seated += 1,
            Err(status) if status.code() == tonic::Code::FailedPrecondition => {
                assert_refused(status, "EVENT_FULL");
            }
            // Not accepted: the replica said that it ends, or the connection was gone (which is the client's own word).
            Err(status) if status.details().is_empty() => {
                assert!(std::error::Error::source(status).is_some(), "{status:?}");
            }
            Err(status) => {
                assert_refused(status, "SHUTTING_DOWN");
            }
        }
    }
    let rows = "SELECT count(*) FROM registrations WHERE event_id = $1";
    assert_eq!(system.count(rows, &event).await, seated, "who heard no is not in, who heard yes is");
    let second = system.replicas.remove(1);
    system.stop().await;
    system.replicas.push(second);
    system.assert_consistent(&event).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_that_are_cut_in_a_rush_cost_nobody_a_seat() {
    let system = System::with_replicas(2).await;
    let event = system.event(120).await;
    let people = system.attendees(150);
    let (cut, ended) = (system.pool.clone(), Arc::new(AtomicI64::new(0)));
    let rush = people.clone().into_iter().enumerate().map(|(n, person)| {
        let (request, cut, ended) = (ask(&event), cut.clone(), Arc::clone(&ended));
        async move {
            if n % 50 == 25 {
                let sessions: i64 = sqlx::query_scalar(
                    "SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM pg_stat_activity
                      WHERE datname = current_database() AND application_name = 'rowlock-booking-seating'",
                )
                .fetch_one(&cut)
                .await
                .unwrap();
                ended.fetch_add(sessions, Ordering::SeqCst);
            }
            person.try_register(request).await
        }
    });
    let answers = at_once(rush.collect::<Vec<_>>()).await;
    assert!(ended.load(Ordering::SeqCst) > 0, "no session was there to be cut");
    let mut seated = 0;
    for answer in &answers {
        match answer {
            Ok(_) => seated += 1,
            Err(status) => {
                assert_refused(status, "EVENT_FULL");
            }
        }
    }
    assert_eq!(seated, 120);
    system.assert_consistent(&event).await;
}
