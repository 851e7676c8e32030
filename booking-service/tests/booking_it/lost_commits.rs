//! The connection to the database breaks at COMMIT: what is answered is true all the same.

use std::fmt::Debug;
use std::sync::atomic::Ordering;
use std::time::Duration;

use booking_service::MIGRATOR;
use booking_service::config::ServeConfig;
use futures_util::future::join;
use rowlock_proto::booking::v1 as pb;
use rowlock_proto::booking::v1::register_response::Outcome;
use service_core::test_support::TestServer;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::time::timeout;
use tonic::{Response, Status};

use crate::acts::{ask, ask_or_queue, draft};
use crate::interference::lock;
use crate::proof::id;
use crate::proxy::behind_a_proxy;
use crate::refusal::refused;
use crate::system::{PATIENCE, Replica, System, at_once, eventually};

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
    let (system, _server) = alone().await;
    let event = system.event(2).await;
    let ada = system.attendee();
    let request = pb::RegisterRequest { request_id: system.new_id().to_string(), ..ask(&event) };
    let seated = "SELECT EXISTS (SELECT FROM registrations)";
    repeat_without_a_standby(&system, seated, |replica| {
        let (ada, request) = (ada.at(replica), request.clone());
        async move { ada.try_register(request).await }
    })
    .await;
    system.assert_consistent(&event).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repetition_is_not_told_of_an_events_end_that_the_synchronous_standby_does_not_have_yet() {
    let (system, _server) = alone().await;
    let event = system.event(2).await;
    let admin = system.admin();
    let ended = "SELECT EXISTS (SELECT FROM events WHERE state = 'CANCELLED')";
    repeat_without_a_standby(&system, ended, |replica| {
        let (admin, event) = (admin.at(replica), event.clone());
        async move { admin.cancel_event(&event, "rain").await }
    })
    .await;
    system.assert_consistent(&event).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repetition_is_not_told_of_a_draft_that_the_synchronous_standby_does_not_have_yet() {
    let (system, _server) = alone().await;
    let organizer = system.organizer();
    let request_id = system.new_id().to_string();
    let request = pb::CreateEventRequest { event: Some(draft(2)), request_id };
    let drafted = "SELECT EXISTS (SELECT FROM events)";
    repeat_without_a_standby(&system, drafted, |replica| {
        let (organizer, request) = (organizer.at(replica), request.clone());
        async move { organizer.events().create_event(request).await.map(Response::into_inner) }
    })
    .await;
}

/// Two replicas, of little patience with a lost commit, at a server that is theirs alone, for its settings are changed.
async fn alone() -> (System, TestServer) {
    let server = TestServer::start(&[]);
    let database = server.database("booking", &MIGRATOR).await;
    let hasty = |config: &mut ServeConfig| config.seating.retry_window = Duration::from_millis(500);
    (System::over(database, 2, hasty).await, server)
}

/// Has the sessions end in which a call's commits wait for a standby that is not there, until the call is told that the outcome
/// is unknown, while everybody sees it: `is_seen`. A repetition at another replica has no answer before a standby is not asked
/// for any more.
async fn repeat_without_a_standby<Call, T>(
    system: &System,
    is_seen: &'static str,
    call: impl Fn(&Replica) -> Call,
) where
    Call: Future<Output = Result<T, Status>> + Send + 'static,
    T: Debug + Send + 'static,
{
    standbys(system, "'nobody'").await;
    // Some time after the setting is seen the first commit waits.
    let mut probe = PgConnection::connect(&system.database.url).await.unwrap();
    let commits = tokio::spawn(async move {
        while sqlx::query("SELECT pg_logical_emit_message(true, '', '')").execute(&mut probe).await.is_ok() {}
    });
    eventually(async || {
        end_who_waits_for_a_standby(system).await;
        commits.is_finished()
    })
    .await;
    let asked = tokio::spawn(call(&system.replicas[0]));
    eventually(async || {
        end_who_waits_for_a_standby(system).await;
        asked.is_finished()
    })
    .await;
    refused(asked.await.unwrap(), "DATABASE_UNAVAILABLE");
    assert!(sqlx::query_scalar::<_, bool>(is_seen).fetch_one(&system.pool).await.unwrap());
    let told = timeout(Duration::from_secs(1), call(&system.replicas[1])).await;
    assert!(matches!(told, Err(_) | Ok(Err(_))), "{told:?}");
    standbys(system, "''").await;
    call(&system.replicas[1]).await.unwrap();
}

/// Ends the sessions whose commit waits for a standby.
async fn end_who_waits_for_a_standby(system: &System) {
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                WHERE datname = current_database() AND wait_event = 'SyncRep'";
    sqlx::query(end).execute(&system.pool).await.unwrap();
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
