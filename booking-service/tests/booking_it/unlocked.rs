//! Writing on the ground of facts that were read without a lock: only if nobody was faster.

use std::time::Duration;

use booking_service::domain::command::{Action, Actor, ActorRole, Command, Register, WhenFull};
use booking_service::domain::decide::{Decision, decide};
use booking_service::domain::registration::Labels;
use booking_service::store::seating::{
    EventVersion, Mark, are_unchanged, begin_and_lock_events, commit, load_facts, prepare_lock, rollback,
    rule_out, session_options, write_effects, write_if_unchanged,
};
use futures_util::future::join_all;
use rowlock_proto::booking::v1 as pb;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, PgConnection};

use crate::proof::id;
use crate::system::{System, eventually};

/// A session as a runner has it.
async fn session(system: &System) -> PgConnection {
    let options: PgConnectOptions = system.database.url.parse().unwrap();
    let mut connection = options.options(session_options(Duration::from_secs(10))).connect().await.unwrap();
    prepare_lock(&mut connection).await.unwrap();
    connection
}

/// What a batch of one, somebody who registers, has read and would write.
struct Read {
    versions: Vec<EventVersion>,
    decision: Decision,
    mark: Mark,
}

async fn read(system: &System, session: &mut PgConnection, event: &pb::Event) -> Read {
    let user_id = system.new_id();
    let register = Register {
        user_id,
        seats: 1,
        when_full: WhenFull::Reject,
        hold: None,
        labels: Labels::default(),
        request: None,
    };
    let command = Command {
        event_id: id(&event.event_id),
        actor: Actor { id: user_id, role: ActorRole::Attendee },
        action: Action::Register(register),
    };
    let loaded = load_facts(session, &[command.event_id], std::iter::once(&command)).await.unwrap();
    assert!(loaded.at_one_moment);
    let decision = decide(loaded.facts, [&command], &system.ids);
    let mark = Mark::new(system.new_id(), &decision.effects);
    Read { versions: loaded.versions, decision, mark }
}

async fn write(session: &mut PgConnection, read: &Read) -> bool {
    write_if_unchanged(session, &read.versions, &read.decision.effects, &read.mark).await.unwrap()
}

#[tokio::test]
async fn of_many_who_have_read_the_same_one_writes() {
    let system = System::with_replicas(1).await;
    let event = system.event(100).await;
    let mut readers = Vec::new();
    for _ in 0..8 {
        let mut session = session(&system).await;
        let read = read(&system, &mut session, &event).await;
        readers.push((session, read));
    }
    let written = join_all(readers.iter_mut().map(|(session, read)| write(session, read))).await;
    assert_eq!(written.iter().filter(|written| **written).count(), 1);
    assert_eq!(system.attendee().get_event(&event).await.unwrap().seats_remaining, 99);
    for (session, read) in &mut readers {
        assert!(!are_unchanged(session, &read.versions).await.unwrap());
        assert!(!write(session, read).await, "not even the one who has");
    }
    system.assert_consistent(&event).await;
}

#[tokio::test]
async fn who_waits_for_a_lock_writes_if_its_holder_changed_nothing_and_else_not() {
    let system = System::with_replicas(1).await;
    let event = system.event(100).await;
    for changes in [false, true] {
        let (mut holder, mut other) = (session(&system).await, session(&system).await);
        let waits = read(&system, &mut other, &event).await;
        begin_and_lock_events(&mut holder, &[id(&event.event_id)]).await.unwrap();
        let held = read(&system, &mut holder, &event).await;
        let waiting = tokio::spawn(async move {
            let written = write(&mut other, &waits).await;
            (written, other, waits)
        });
        eventually(async || {
            let waiting = "SELECT count(*) FROM pg_stat_activity
                            WHERE datname = current_database() AND wait_event_type = 'Lock'";
            sqlx::query_scalar::<_, i64>(waiting).fetch_one(&system.pool).await.unwrap() == 1
        })
        .await;
        if changes {
            write_effects(&mut holder, &held.versions, &held.decision.effects, &held.mark).await.unwrap();
            commit(&mut holder).await.unwrap();
        } else {
            rollback(&mut holder).await.unwrap();
        }
        let (written, ..) = waiting.await.unwrap();
        assert_eq!(written, !changes);
    }
    assert_eq!(system.attendee().get_event(&event).await.unwrap().seats_remaining, 98);
    system.assert_consistent(&event).await;
}

#[tokio::test]
async fn one_of_many_events_that_has_changed_is_enough_for_nothing_to_be_written() {
    let system = System::with_replicas(1).await;
    let (event, other) = (system.event(5).await, system.event(5).await);
    let mut session = session(&system).await;
    let (mut read, of_other) =
        (read(&system, &mut session, &event).await, read(&system, &mut session, &other).await);
    read.versions.extend(of_other.versions);
    system.attendee().seat(&other).await;
    let before = system.everything().await;
    assert!(!write(&mut session, &read).await);
    assert_eq!(system.everything().await, before);
}

#[tokio::test]
async fn what_was_read_too_long_ago_or_before_the_clock_went_back_is_not_written() {
    let system = System::with_replicas(1).await;
    let event = system.event(5).await;
    let mut session = session(&system).await;
    let mut old = read(&system, &mut session, &event).await;
    let time = old.decision.effects.changes[0].time;
    for moment in [time - Duration::from_secs(6), time + Duration::from_secs(60)] {
        old.decision.effects.changes[0].time = moment;
        assert!(!write(&mut session, &old).await);
    }
    old.decision.effects.changes[0].time = time;
    assert!(write(&mut session, &old).await);
    system.assert_consistent(&event).await;
}

#[tokio::test]
async fn what_was_ruled_out_is_never_written_and_what_is_read_afterwards_is() {
    let system = System::with_replicas(1).await;
    let event = system.event(5).await;
    let mut session = session(&system).await;
    let old = read(&system, &mut session, &event).await;
    begin_and_lock_events(&mut session, old.mark.events()).await.unwrap();
    rule_out(&mut session, old.mark.events()).await.unwrap();
    assert!(!write(&mut session, &old).await);
    let new = read(&system, &mut session, &event).await;
    assert!(write(&mut session, &new).await);
    system.assert_consistent(&event).await;
}
