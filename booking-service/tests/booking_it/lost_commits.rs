//! The connection to the database breaks at COMMIT: what is answered is true all the same.

use std::sync::atomic::Ordering;
use std::time::Duration;

use booking_service::MIGRATOR;
use futures_util::future::join;
use rowlock_proto::booking::v1 as pb;
use rowlock_proto::booking::v1::register_response::Outcome;
use service_core::test_support::TestServer;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::acts::{ask, ask_or_queue, draft};
use crate::interference::lock;
use crate::proof::id;
use crate::proxy::behind_a_proxy;
use crate::refusal::refused;
use crate::system::{PATIENCE, System, at_once, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_answer_is_lost_is_found_and_not_done_again() {
    let (system, proxy) = behind_a_proxy(|_| {}).await;
    let event = system.event(3).await;
    let (ada, bob, eve) = (system.attendee(), system.attendee(), system.attendee());
    let breaks = || proxy.faults.after_commit.store(1, Ordering::SeqCst);
    let broke = || assert_eq!(proxy.faults.after_commit.load(Ordering::SeqCst), 0, "it did not break");
    breaks();
    let registration = ada.seat(&event).await;
    broke();
    assert_eq!(ada.registration(&registration.registration_id).await.unwrap(), registration);
    breaks();
    let request = pb::RegisterRequest { request_id: system.new_id().to_string(), ..ask(&event) };
    let of_bob = bob.seats(request.clone()).await;
    broke();
    assert_eq!(bob.seats(request).await, of_bob);
    breaks();
    let cancelled = ada.cancel(&registration.registration_id).await.unwrap();
    broke();
    assert_eq!(ada.registration(&registration.registration_id).await.unwrap(), cancelled);
    assert_eq!(ada.get_event(&event).await.unwrap().seats_remaining, 2, "it frees once");
    eve.seat(&event).await;
    breaks();
    let ended = system.admin().cancel_event(&event, "rain").await.unwrap();
    broke();
    assert_eq!(system.admin().get_event(&event).await.unwrap(), ended);
    system.assert_consistent(&event).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_fails_as_it_commits_is_not_taken_for_one_that_has_refused() {
    let (system, proxy) = behind_a_proxy(|_| {}).await;
    let event = system.event(3).await;
    let ada = system.attendee();
    let fails = || proxy.faults.panic_after_commit.store(1, Ordering::SeqCst);
    let failed = || assert_eq!(proxy.faults.panic_after_commit.load(Ordering::SeqCst), 0, "it did not fail");
    for _ in 0..2 {
        fails();
        let registration = ada.seat(&event).await;
        failed();
        assert_eq!(ada.registration(&registration.registration_id).await.unwrap(), registration);
        fails();
        ada.cancel(&registration.registration_id).await.unwrap();
        failed();
    }
    system.assert_consistent(&event).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_never_arrived_is_done_again_once() {
    let (system, proxy) = behind_a_proxy(|_| {}).await;
    let event = system.event(2).await;
    let (ada, bob) = (system.attendee(), system.attendee());
    proxy.faults.before_commit.store(2, Ordering::SeqCst);
    let registration = ada.seat(&event).await;
    assert_eq!(proxy.faults.before_commit.load(Ordering::SeqCst), 0, "it broke");
    assert_eq!(ada.registration(&registration.registration_id).await.unwrap(), registration);
    refused(ada.register(&event).await, "ALREADY_REGISTERED");
    bob.seat(&event).await;
    assert_eq!(system.log(&event).await.len(), 4);
    system.assert_consistent(&event).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_breaks_its_session_every_time_is_given_up_within_the_retry_window() {
    const MANY: usize = 1_000_000;
    let (system, proxy) = behind_a_proxy(|config| config.seating.retry_window = Duration::from_secs(2)).await;
    let event = system.event(2).await;
    let ada = system.attendee();
    let before = system.log(&event).await.len();
    proxy.faults.before_write.store(MANY, Ordering::SeqCst);
    let status = ada.register(&event).await.unwrap_err();
    assert!(!status.message().contains("unknown"), "{status:?}");
    refused(Err::<(), _>(status), "DATABASE_UNAVAILABLE");
    let broke = MANY - proxy.faults.before_write.swap(0, Ordering::SeqCst);
    assert!(broke > 1, "it was tried once");
    assert_eq!(system.log(&event).await.len(), before);
    ada.seat(&event).await;
    system.assert_consistent(&event).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_became_of_a_batch_that_was_written_without_reading_is_found_out_as_well() {
    let (system, proxy) = behind_a_proxy(|config| config.seating.sessions = 1).await;
    let event = system.event(10_000).await;
    let faults = [&proxy.faults.before_commit, &proxy.faults.after_commit, &proxy.faults.panic_after_commit];
    for fault in faults {
        // Where the machine stood still for a second, nothing is remembered.
        eventually(async || {
            // One batch is read and leaves what is remembered; the next has the statement prepared.
            for _ in 0..2 {
                system.attendee().seat(&event).await;
            }
            fault.store(1, Ordering::SeqCst);
            let ada = system.attendee();
            let registration = ada.seat(&event).await;
            assert_eq!(fault.load(Ordering::SeqCst), 0, "it did not break");
            assert_eq!(ada.registration(&registration.registration_id).await.unwrap(), registration);
            proxy.faults.remembered.swap(0, Ordering::SeqCst) == 1
        })
        .await;
    }
    system.assert_consistent(&event).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_arrives_after_its_command_was_refused_changes_nothing() {
    let (system, proxy) = behind_a_proxy(|_| {}).await;
    let event = system.event(3).await;
    let ada = system.attendee();
    // What becomes of the write cannot be found out before this ends.
    let mut held = lock(&system, &event).await;
    proxy.faults.late_commit.store(1, Ordering::SeqCst);
    let close = async {
        eventually(async || proxy.faults.late_commit.load(Ordering::SeqCst) == 0).await;
        sqlx::query("UPDATE events SET registration_close_time = now() WHERE id = $1")
            .bind(id(&event.event_id))
            .execute(&mut *held)
            .await
            .unwrap();
        held.commit().await.unwrap();
    };
    let (answer, ()) = join(ada.register(&event), close).await;
    refused(answer, "REGISTRATION_CLOSED");
    let before = system.everything().await;
    let answers = proxy.faults.arrive().await;
    assert_eq!(answers.len(), 1, "it was on its way");
    assert_eq!(system.everything().await, before);
    system.assert_consistent(&event).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_that_break_all_through_a_rush_cost_nobody_a_seat() {
    let (system, proxy) = behind_a_proxy(|config| config.seating.retry_window = PATIENCE).await;
    let event = system.organizer().publish_new(draft(40)).await;
    proxy.faults.after_commit.store(4, Ordering::SeqCst);
    proxy.faults.before_commit.store(4, Ordering::SeqCst);
    let answers = at_once(system.attendees(100).into_iter().map(|attendee| {
        let request = ask_or_queue(&event, 1);
        async move { (attendee.clone(), attendee.try_register(request).await.unwrap()) }
    }))
    .await;
    for broken in [&proxy.faults.after_commit, &proxy.faults.before_commit] {
        assert!(broken.load(Ordering::SeqCst) < 4, "it did not break");
    }
    let mut seated = 0;
    for (attendee, outcome) in answers {
        match outcome {
            Outcome::Registration(made) => {
                assert_eq!(attendee.registration(&made.registration_id).await.unwrap(), made);
                seated += 1;
            }
            Outcome::WaitlistEntry(made) => {
                assert_eq!(attendee.entry(&made.entry_id).await.unwrap().position, made.position);
            }
        }
    }
    assert_eq!(seated, 40);
    system.assert_consistent(&event).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repetition_is_not_told_of_a_seat_that_the_synchronous_standby_does_not_have_yet() {
    let server = TestServer::start(&[]);
    let system = System::over(server.database("booking", &MIGRATOR).await, 2, |_| {}).await;
    let event = system.event(2).await;
    let first = system.attendee().at(&system.replicas[0]);
    let request = pb::RegisterRequest { request_id: system.new_id().to_string(), ..ask(&event) };
    // From now on each commit waits for a standby that is not there.
    standbys(&system, "'nobody'").await;
    let asked = tokio::spawn({
        let (first, request) = (first.clone(), request.clone());
        async move { first.try_register(request).await }
    });
    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                WHERE datname = current_database() AND wait_event = 'SyncRep' AND left($1::text, 0) = ''";
    eventually(async || system.count(end, &event).await > 0).await;
    // Whose session has ended is seen by everybody.
    let seats = "SELECT count(*) FROM registrations WHERE event_id = $1::uuid";
    eventually(async || system.count(seats, &event).await == 1).await;
    let again = first.at(&system.replicas[1]);
    let mut hasty = tonic::Request::new(request.clone());
    hasty.set_timeout(Duration::from_secs(1));
    let told = again.registrations().register(hasty).await;
    assert!(told.is_err(), "{told:?}");
    standbys(&system, "''").await;
    let seat = again.seats(request).await;
    match asked.await.unwrap() {
        Ok(Outcome::Registration(told)) => assert_eq!(told, seat),
        told => panic!("{told:?}"),
    }
    system.assert_consistent(&event).await;
}

/// Sets the server's synchronous standbys, and waits until it knows.
async fn standbys(system: &System, names: &'static str) {
    let mut session = PgConnection::connect(&system.database.url).await.unwrap();
    let set = AssertSqlSafe(format!("ALTER SYSTEM SET synchronous_standby_names = {names}"));
    sqlx::raw_sql(set).execute(&mut session).await.unwrap();
    sqlx::raw_sql("SELECT pg_reload_conf()").execute(&mut session).await.unwrap();
    let name = names.trim_matches('\'');
    eventually(async || {
        let known: String =
            sqlx::query_scalar("SHOW synchronous_standby_names").fetch_one(&mut session).await.unwrap();
        known == name
    })
    .await;
}
