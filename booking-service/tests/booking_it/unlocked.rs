//! Writing on the ground of facts that were read without a lock, or remembered: only if nobody was faster.

use std::time::Duration;

use booking_service::domain::command::{Action, Actor, ActorRole, Command, Register, RequestKey, WhenFull};
use booking_service::domain::decide::{Decision, decide};
use booking_service::domain::facts::Wanted;
use booking_service::domain::registration::Labels;
use booking_service::store::StoreError;
use booking_service::store::seating::{
    EventVersion, Mark, are_unchanged, begin_and_lock_events, commit, load_facts, prepare_lock, rollback,
    rule_out, session_options, write_effects, write_if_unchanged, write_newcomers_if_unchanged,
};
use futures_util::future::join_all;
use rowlock_proto::booking::v1 as pb;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, PgConnection};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::acts::{ask, ask_to_wait};
use crate::proof::id;
use crate::refusal::refused;
use crate::system::{System, eventually};

/// A session as a runner has it.
async fn session(system: &System) -> PgConnection {
    let options: PgConnectOptions = system.database.url.parse().unwrap();
    let mut connection = options.options(session_options(Duration::from_secs(10))).connect().await.unwrap();
    prepare_lock(&mut connection).await.unwrap();
    connection
}

/// How facts are known without a lock. Either way one statement finds out whether they are still so.
#[derive(Clone, Copy, Debug)]
enum Known {
    Read,
    Remembered,
}

const WAYS: [Known; 2] = [Known::Read, Known::Remembered];

/// What a batch of one, somebody who registers, knows and would write.
struct Batch {
    known: Known,
    versions: Vec<EventVersion>,
    server_start: OffsetDateTime,
    newcomers: Wanted,
    decision: Decision,
    mark: Mark,
}

async fn batch(system: &System, session: &mut PgConnection, event: &pb::Event, known: Known) -> Batch {
    batch_of(system, session, event, known, system.new_id(), None).await
}

async fn batch_of(
    system: &System,
    session: &mut PgConnection,
    event: &pb::Event,
    known: Known,
    user_id: Uuid,
    request: Option<RequestKey>,
) -> Batch {
    let register = Register {
        user_id,
        seats: 1,
        when_full: WhenFull::JoinWaitlist,
        hold: None,
        labels: Labels::default(),
        request,
    };
    let command = Command {
        event_id: id(&event.event_id),
        actor: Actor { id: user_id, role: ActorRole::Attendee },
        action: Action::Register(register),
    };
    let loaded = load_facts(session, &[command.event_id], std::iter::once(&command), None).await.unwrap();
    assert!(loaded.at_one_moment);
    let decision = decide(loaded.facts, [&command], &system.ids);
    let server_start = sqlx::query_scalar("SELECT pg_postmaster_start_time()");
    Batch {
        known,
        versions: loaded.versions,
        server_start: server_start.fetch_one(session).await.unwrap(),
        newcomers: Wanted::by([&command]),
        mark: Mark::new(system.new_id(), &decision.effects),
        decision,
    }
}

async fn write(session: &mut PgConnection, batch: &Batch) -> bool {
    let Batch { known, versions, server_start, newcomers, decision, mark } = batch;
    let effects = &decision.effects;
    let written = match known {
        Known::Read => write_if_unchanged(session, versions, effects, mark).await,
        Known::Remembered => {
            write_newcomers_if_unchanged(session, versions, *server_start, newcomers, effects, mark).await
        }
    };
    let written = written.unwrap();
    assert!(written.is_none_or(|moment| moment.server_start == *server_start));
    written.is_some()
}

#[tokio::test]
async fn no_session_seats_anybody_where_nothing_can_be_locked() {
    let system = System::with_replicas(1).await;
    let options: PgConnectOptions = system.database.url.parse().unwrap();
    // As on a standby.
    let read_only = options.options([("default_transaction_read_only", "on")]);
    let mut connection = read_only.connect().await.unwrap();
    let refused = prepare_lock(&mut connection).await.unwrap_err();
    let StoreError::Database(refused) = refused else { panic!("{refused}") };
    assert_eq!(refused.as_database_error().unwrap().code().as_deref(), Some("25006"));
}

/// The planner knows nothing of a new or restored database, and much depends on what it supposes then.
#[tokio::test]
async fn entries_are_found_without_reading_their_queue_before_the_database_has_any_statistics() {
    let system = System::with_replicas(1).await;
    let event = system.event(1).await;
    let mut session = session(&system).await;
    // What is written within a transaction is in no statistics.
    sqlx::raw_sql("BEGIN").execute(&mut session).await.unwrap();
    let entries: Vec<(Uuid, Uuid)> = sqlx::query_as(
        "INSERT INTO waitlist_entries (event_id, position, id, user_id, seats, state, create_time, update_time)
         SELECT $1, n, gen_random_uuid(), gen_random_uuid(), 1, 'WAITING', now(), now() FROM generate_series(1, 20000) n
         RETURNING id, user_id",
    )
    .bind(id(&event.event_id))
    .fetch_all(&mut session)
    .await
    .unwrap();
    sqlx::query("UPDATE events SET waitlist_size = 20000, next_position = 20001 WHERE id = $1")
        .bind(id(&event.event_id))
        .execute(&mut session)
        .await
        .unwrap();
    let leave = |&(entry_id, user_id): &(Uuid, Uuid)| Command {
        event_id: id(&event.event_id),
        actor: Actor { id: user_id, role: ActorRole::Attendee },
        action: Action::Leave { entry_id },
    };
    let commands: Vec<Command> = entries.iter().step_by(400).map(leave).collect();
    let loaded = load_facts(&mut session, &[id(&event.event_id)], commands.iter(), None).await.unwrap();
    let decision = decide(loaded.facts, &commands, &system.ids);
    assert!(decision.verdicts.iter().all(Result::is_ok));
    let read: i64 = sqlx::query_scalar(
        "SELECT sum(pg_stat_get_xact_tuples_returned(indexrelid))::bigint FROM pg_index
          WHERE indrelid = 'waitlist_entries'::regclass",
    )
    .fetch_one(&mut session)
    .await
    .unwrap();
    assert!(read < 1_000, "{read} places of indexes were read for {} entries", commands.len());
}

/// Until somebody waits for a row lock of this database's.
async fn somebody_waits(system: &System) {
    eventually(async || {
        let waiting = "SELECT count(*) FROM pg_stat_activity
                        WHERE datname = current_database() AND wait_event_type = 'Lock'";
        sqlx::query_scalar::<_, i64>(waiting).fetch_one(&system.pool).await.unwrap() == 1
    })
    .await;
}

#[tokio::test]
async fn of_many_who_know_the_same_one_writes() {
    let system = System::with_replicas(1).await;
    let event = system.event(100).await;
    let mut writers = Vec::new();
    for known in WAYS.repeat(4) {
        let mut session = session(&system).await;
        let batch = batch(&system, &mut session, &event, known).await;
        writers.push((session, batch));
    }
    let written = join_all(writers.iter_mut().map(|(session, batch)| write(session, batch))).await;
    assert_eq!(written.iter().filter(|written| **written).count(), 1);
    assert_eq!(system.attendee().get_event(&event).await.unwrap().seats_remaining, 99);
    for (session, batch) in &mut writers {
        assert!(!are_unchanged(session, &batch.versions).await.unwrap());
        assert!(!write(session, batch).await, "not even the one who has");
    }
    system.assert_consistent(&event).await;
}

#[tokio::test]
async fn who_waits_for_a_lock_writes_if_its_holder_changed_nothing_and_else_not() {
    let system = System::with_replicas(1).await;
    let event = system.event(100).await;
    for (known, changes) in WAYS.into_iter().flat_map(|known| [(known, false), (known, true)]) {
        let (mut holder, mut other) = (session(&system).await, session(&system).await);
        let waits = batch(&system, &mut other, &event, known).await;
        begin_and_lock_events(&mut holder, &[id(&event.event_id)]).await.unwrap();
        let held = batch(&system, &mut holder, &event, Known::Read).await;
        let waiting = tokio::spawn(async move { write(&mut other, &waits).await });
        somebody_waits(&system).await;
        if changes {
            write_effects(&mut holder, &held.versions, &held.decision.effects, &held.mark).await.unwrap();
            commit(&mut holder).await.unwrap();
        } else {
            // The row is another one then, and says the same.
            sqlx::query("UPDATE events SET search = DEFAULT").execute(&mut holder).await.unwrap();
            commit(&mut holder).await.unwrap();
        }
        assert_eq!(waiting.await.unwrap(), !changes, "{known:?}");
    }
    assert_eq!(system.attendee().get_event(&event).await.unwrap().seats_remaining, 96);
    system.assert_consistent(&event).await;
}

#[tokio::test]
async fn whoever_comes_in_by_another_way_while_a_remembered_write_waits_is_not_written_twice() {
    let system = System::with_replicas(1).await;
    let event = system.event(100).await;
    let (ada, bob, request_id) = (system.new_id(), system.new_id(), system.new_id());
    let key = |actor_id| Some(RequestKey { actor_id, id: request_id, fingerprint: [7; 32] });
    for (user, request) in [(ada, None), (bob, key(bob))] {
        let (mut holder, mut other) = (session(&system).await, session(&system).await);
        let again = batch_of(&system, &mut other, &event, Known::Remembered, user, request.clone()).await;
        begin_and_lock_events(&mut holder, &[id(&event.event_id)]).await.unwrap();
        let held = batch_of(&system, &mut holder, &event, Known::Read, user, request).await;
        let waiting = tokio::spawn(async move { write(&mut other, &again).await });
        somebody_waits(&system).await;
        write_effects(&mut holder, &held.versions, &held.decision.effects, &held.mark).await.unwrap();
        commit(&mut holder).await.unwrap();
        assert!(!waiting.await.unwrap());
    }
    assert_eq!(system.attendee().get_event(&event).await.unwrap().seats_remaining, 98);
    system.assert_consistent(&event).await;
}

#[tokio::test]
async fn one_of_many_events_that_has_changed_is_enough_for_nothing_to_be_written() {
    let system = System::with_replicas(1).await;
    let (event, other) = (system.event(5).await, system.event(5).await);
    let mut session = session(&system).await;
    for known in WAYS {
        let mut batch_of_both = batch(&system, &mut session, &event, known).await;
        let of_other = batch(&system, &mut session, &other, known).await;
        batch_of_both.versions.extend(of_other.versions);
        system.attendee().seat(&other).await;
        let before = system.everything().await;
        assert!(!write(&mut session, &batch_of_both).await, "{known:?}");
        assert_eq!(system.everything().await, before);
    }
}

#[tokio::test]
async fn what_was_read_too_long_ago_or_before_the_clock_went_back_is_not_written() {
    let system = System::with_replicas(1).await;
    let event = system.event(5).await;
    let mut session = session(&system).await;
    for known in WAYS {
        let mut old = batch(&system, &mut session, &event, known).await;
        let time = old.decision.effects.changes[0].time;
        for moment in [time - Duration::from_secs(6), time + Duration::from_secs(60)] {
            old.decision.effects.changes[0].time = moment;
            assert!(!write(&mut session, &old).await, "{known:?}");
        }
        old.decision.effects.changes[0].time = time;
        assert!(write(&mut session, &old).await, "{known:?}");
    }
    system.assert_consistent(&event).await;
}

#[tokio::test]
async fn what_was_ruled_out_is_never_written_and_what_is_read_afterwards_is() {
    let system = System::with_replicas(1).await;
    let event = system.event(5).await;
    let mut session = session(&system).await;
    for known in WAYS {
        let old = batch(&system, &mut session, &event, known).await;
        begin_and_lock_events(&mut session, old.mark.events()).await.unwrap();
        rule_out(&mut session, old.mark.events()).await.unwrap();
        assert!(!are_unchanged(&mut session, &old.versions).await.unwrap());
        assert!(!write(&mut session, &old).await, "{known:?}");
        let new = batch(&system, &mut session, &event, known).await;
        assert!(write(&mut session, &new).await, "{known:?}");
    }
    system.assert_consistent(&event).await;
}

#[tokio::test]
async fn who_is_known_to_an_event_is_not_written_on_the_ground_of_a_memory_and_who_is_new_is() {
    let system = System::with_replicas(1).await;
    let event = system.event(1).await;
    let (ada, bob) = (system.attendee(), system.attendee());
    let (of_ada, of_bob) = (system.new_id(), system.new_id());
    ada.seats(pb::RegisterRequest { request_id: of_ada.to_string(), ..ask(&event) }).await;
    let wait = pb::JoinWaitlistRequest { request_id: of_bob.to_string(), ..ask_to_wait(&event) };
    bob.try_join(wait).await.unwrap();
    let mut session = session(&system).await;
    let mut batch = batch(&system, &mut session, &event, Known::Remembered).await;
    let before = system.everything().await;
    let event_id = id(&event.event_id);
    let users = |users: &[Uuid]| Wanted {
        users: users.iter().map(|user| (event_id, *user)).collect(),
        ..Wanted::default()
    };
    let request =
        |caller, request| Wanted { requests: vec![(event_id, caller, request)], ..Wanted::default() };
    for known in [
        users(&[ada.id]),
        users(&[system.new_id(), bob.id]),
        request(ada.id, of_ada),
        request(bob.id, of_bob),
    ] {
        batch.newcomers = known;
        assert!(!write(&mut session, &batch).await, "{:?}", batch.newcomers);
    }
    assert_eq!(system.everything().await, before);
    let requests = request(bob.id, of_ada).requests;
    batch.newcomers = Wanted { requests, ..users(&[system.new_id(), system.new_id()]) };
    assert!(write(&mut session, &batch).await);
    system.assert_consistent(&event).await;
}

#[tokio::test]
async fn what_is_remembered_from_another_server_is_not_written() {
    let system = System::with_replicas(1).await;
    let event = system.event(5).await;
    let mut session = session(&system).await;
    let mut batch = batch(&system, &mut session, &event, Known::Remembered).await;
    let here = batch.server_start;
    batch.server_start = here - Duration::from_micros(1);
    assert!(!write(&mut session, &batch).await);
    batch.server_start = here;
    assert!(write(&mut session, &batch).await);
    system.assert_consistent(&event).await;
}

#[tokio::test]
async fn what_the_database_refuses_of_a_memory_is_read_and_decided_anew() {
    let system = System::with_replicas(1).await;
    let event = system.event(5).await;
    system.attendee().seat(&event).await;
    // Somebody by hand, who did not raise the fence: the seats that would be left are more than there are.
    sqlx::query("UPDATE events SET capacity = 1, seats_remaining = 0").execute(&system.pool).await.unwrap();
    refused(system.attendee().register(&event).await, "EVENT_FULL");
    system.assert_consistent(&event).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repetition_is_not_refused_while_what_it_repeats_is_being_committed() {
    let system = System::start().await;
    let event = system.event(1).await;
    let event_id = id(&event.event_id);
    let (ada, bob) = (system.attendee(), system.attendee());
    let seat = bob.seat(&event).await;
    // Elsewhere it is decided and written that Bob gives his seat back (and that somebody has it, as far as others know).
    let request_id = system.new_id();
    let cancel = Command {
        event_id,
        actor: Actor { id: bob.id, role: ActorRole::Attendee },
        action: Action::CancelRegistration { registration_id: id(&seat.registration_id) },
    };
    let ask_again = pb::RegisterRequest { request_id: request_id.to_string(), ..ask(&event) };
    let mut elsewhere = session(&system).await;
    begin_and_lock_events(&mut elsewhere, &[event_id]).await.unwrap();
    let loaded = load_facts(&mut elsewhere, &[event_id], std::iter::once(&cancel), None).await.unwrap();
    let Decision { effects, .. } = decide(loaded.facts, [&cancel], &system.ids);
    let mark = Mark::new(system.new_id(), &effects);
    write_effects(&mut elsewhere, &loaded.versions, &effects, &mark).await.unwrap();

    // Who asks for the first time is told what there is.
    refused(system.attendee().register(&event).await, "EVENT_FULL");
    let repeats = tokio::spawn(async move { ada.try_register(ask_again).await });
    somebody_waits(&system).await;
    assert!(!repeats.is_finished());
    commit(&mut elsewhere).await.unwrap();
    repeats.await.unwrap().expect("the seat is there by now");
    system.assert_consistent(&event).await;
}

#[tokio::test]
async fn an_event_is_being_written_as_long_as_somebody_has_its_lock() {
    let system = System::with_replicas(1).await;
    let event = system.event(5).await;
    let event_id = id(&event.event_id);
    let (mut holder, mut reader) = (session(&system).await, session(&system).await);
    let other = system.event(5).await;
    let ids = [event_id, id(&other.event_id)];
    let mut being_written =
        async || load_facts(&mut reader, &ids, std::iter::empty(), None).await.unwrap().being_written;
    assert!(!being_written().await);
    for commits in [true, false] {
        begin_and_lock_events(&mut holder, &[event_id]).await.unwrap();
        assert!(being_written().await, "locked");
        sqlx::query("UPDATE events SET version = version WHERE id = $1")
            .bind(event_id)
            .execute(&mut holder)
            .await
            .unwrap();
        assert!(being_written().await, "written");
        // Others come and go meanwhile: its id is not the last any more.
        system.attendee().seat(&other).await;
        assert!(being_written().await, "written a while ago");
        if commits {
            commit(&mut holder).await.unwrap();
        } else {
            rollback(&mut holder).await.unwrap();
        }
        assert!(!being_written().await, "over");
    }
}
