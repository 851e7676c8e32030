//! What the service takes at once: limits of callers, of calls, and of what waits.

use std::num::NonZeroU32;
use std::time::Duration;

use booking_service::config::ServeConfig;
use futures_util::future::join_all;
use rowlock_proto::booking::v1::RegisterRequest;
use service_core::auth::Role;
use service_core::layers::{Rate, RateLimit};
use tokio::task::JoinSet;
use tonic::Status;
use tonic_types::StatusExt;

use crate::acts::ask;
use crate::refusal::assert_refused;
use crate::system::System;

const REGISTER: &str = "/rowlock.booking.v1.RegistrationService/Register";

/// Attendees may register twice a second, four times in a burst.
fn limited(config: &mut ServeConfig) {
    let rate = Rate::per_second(NonZeroU32::new(2).unwrap());
    config.server.rate_limits =
        vec![RateLimit { roles: &[Role::Attendee], methods: Some(&[REGISTER]), rate }];
}

fn retry_after(status: &Status) -> Duration {
    status.get_details_retry_info().unwrap().retry_delay.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attendee_who_calls_too_often_waits_and_nobody_else_does() {
    let system = System::with(1, limited).await;
    let event = system.event(100).await;
    let ada = system.attendee();
    ada.seat(&event).await;
    let before = system.everything().await;
    let mut limited = 0;
    // A burst is spent long before the second in which it is earned again.
    let answers = join_all((0..40).map(|_| ada.register(&event))).await;
    for status in answers.into_iter().map(Result::unwrap_err) {
        if status.code() == tonic::Code::ResourceExhausted {
            assert_refused(&status, "RATE_LIMITED");
            assert!(retry_after(&status) <= Duration::from_secs(1) && !retry_after(&status).is_zero());
            limited += 1;
        } else {
            assert_refused(&status, "ALREADY_REGISTERED");
        }
    }
    assert!(limited > 20, "{limited}");
    assert_eq!(system.everything().await, before);
    // Other calls, other people, and backends.
    ada.get_event(&event).await.unwrap();
    system.attendee().seat(&event).await;
    let service = system.service();
    for _ in 0..20 {
        let user_id = system.new_id().to_string();
        let _ = service.try_register(RegisterRequest { user_id, ..ask(&event) }).await.unwrap();
    }
    system.assert_consistent(&event).await;
}

/// Sends 30 calls for an event that somebody else has locked, and frees it when as many have been refused as have to be.
async fn crowd(system: &System, fit: usize) {
    let event = system.event(100).await;
    let mut tx = system.pool.begin().await.unwrap();
    sqlx::query("SELECT FROM events FOR UPDATE").execute(&mut *tx).await.unwrap();
    let mut calls: JoinSet<_> = system
        .attendees(30)
        .into_iter()
        .map(|attendee| {
            let event = event.clone();
            async move { attendee.register(&event).await }
        })
        .collect();
    // Those that are too many do not wait for the lock.
    for _ in 0..30 - fit {
        let status = calls.join_next().await.unwrap().unwrap().unwrap_err();
        assert_refused(&status, "OVERLOADED");
        assert!(retry_after(&status) <= Duration::from_secs(5));
    }
    tx.rollback().await.unwrap();
    let mut seated = 0;
    while let Some(answer) = calls.join_next().await {
        match answer.unwrap() {
            Ok(_) => seated += 1,
            Err(status) => {
                assert_refused(&status, "OVERLOADED");
            }
        }
    }
    let rows = "SELECT count(*) FROM registrations WHERE event_id = $1";
    assert_eq!(system.count(rows, &event).await, seated, "who was refused has nothing");
    assert!(seated > 0);
    system.attendee().seat(&event).await;
    system.assert_consistent(&event).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_beyond_what_a_replica_holds_are_refused_at_once() {
    let system = System::with(1, |config| config.server.max_calls_in_flight = 5).await;
    crowd(&system, 5).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_beyond_what_the_inbox_holds_are_refused_at_once() {
    let system = System::with(1, |config| {
        config.seating.sessions = 1;
        config.seating.queue = 6;
        config.seating.lock_timeout = Duration::from_millis(10);
    })
    .await;
    // Half of the inbox is for one event, with what a session has in its hands.
    crowd(&system, 3).await;
}
