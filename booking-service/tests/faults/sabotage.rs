//! The checks themselves: each is shown something wrong, and has to say so.

use std::sync::Arc;
use std::time::Duration;

use rowlock_proto::booking::v1 as pb;
use service_core::auth::Role;
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use crate::acts::{ask, ask_or_queue, party_draft};
use crate::checks::violations;
use crate::follow::{Follower, Watcher};
use crate::journal::{Answer, Ask, Journal};
use crate::load::Crowd;
use crate::proof::id;
use crate::system::{System, eventually};

/// A replica, and a client's books of some honest calls.
struct Honest {
    system: System,
    event: pb::Event,
    journal: Journal,
}

impl Honest {
    /// An event with two seats: two have one, three wait, two are refused.
    async fn calls() -> Self {
        let system = System::with_replicas(1).await;
        let event = system.event(2).await;
        let journal = Journal::default();
        let crowd = Crowd {
            events: vec![event.clone()],
            front: vec![system.replicas[0].channel.clone()],
            mint: Arc::new(service_core::test_support::TokenMint::new()),
            people: 0,
            pause: Duration::ZERO,
            deadline: Duration::from_secs(60),
            policy: None,
            hurried: false,
            begun: Arc::default(),
            answered: Arc::default(),
        };
        for n in 0..7 {
            let ask = Ask {
                event: id(&event.event_id),
                user: system.new_id(),
                request_id: system.new_id(),
                seats: 1,
                hold: false,
                queue: n < 5,
            };
            let line = journal.ask(ask);
            let caller = system.caller_with_id(Role::Attendee, ask.user);
            let answer = crate::load::Person::new(&crowd, caller).ask(&crowd, ask).await;
            assert!(!answer.is_unknown(), "{answer:?}");
            journal.answered(line, &answer);
        }
        Self { system, event, journal }
    }

    async fn violations(&self) -> Vec<String> {
        violations(&self.system.database, &self.system.pool, &self.journal).await
    }

    /// Asserts that a complaint with these words comes up.
    async fn complained_of(&self, words: &str) {
        let found = self.violations().await;
        assert!(found.iter().any(|complaint| complaint.contains(words)), "{words:?} is not in {found:#?}");
    }

    async fn sql(&self, sql: &'static str) {
        let done = sqlx::raw_sql(sql).execute(&self.system.pool).await.unwrap();
        assert!(done.rows_affected() > 0 || sql.contains("DROP") || sql.contains("CREATE"), "{sql}");
    }

    /// The line of the client's first answer of that kind.
    fn line(&self, which: impl Fn(&Answer) -> bool) -> usize {
        self.journal.asks().iter().position(|(_, answer)| which(answer)).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn honest_books_are_not_complained_of() {
    let honest = Honest::calls().await;
    assert_eq!(honest.violations().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_was_told_otherwise_is_heard() {
    let honest = Honest::calls().await;
    let (made, refused) = (
        honest.line(|answer| matches!(answer, Answer::Made(made) if !made.entry)),
        honest.line(|answer| matches!(answer, Answer::Refused(_))),
    );
    let asks = honest.journal.asks();
    let Answer::Made(seat) = asks[made].1.clone() else { panic!() };

    let other = crate::journal::Made { id: Uuid::from_u128(1), ..seat.clone() };
    honest.journal.answered(made, &Answer::Made(other));
    honest.complained_of("acknowledged, and missing").await;
    honest.complained_of("acknowledged under another request").await;
    honest.complained_of("there, and nobody was told").await;
    let other = crate::journal::Made { seats: 2, ..seat.clone() };
    honest.journal.answered(made, &Answer::Made(other));
    honest.complained_of("acknowledged, and missing or different").await;
    honest.journal.answered(made, &Answer::Refused("EVENT_FULL".to_owned()));
    honest.complained_of("refused, and there").await;
    honest.journal.answered(made, &Answer::Made(seat));
    honest.journal.answered(refused, &Answer::Unknown("UNAVAILABLE".to_owned()));
    honest.complained_of("still unknown").await;
    honest.journal.answered(refused, &Answer::Refused("ALREADY_REGISTERED".to_owned()));
    honest.complained_of("refused for what cannot be").await;
    honest.journal.wrong("two answers".to_owned());
    honest.complained_of("two answers").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_contradict_each_other_are_found() {
    let honest = Honest::calls().await;
    // What the schema itself would not let in.
    honest
        .sql(
            "ALTER TABLE events DROP CONSTRAINT events_seats_in_range;
             DROP INDEX registrations_active, registrations_request, waitlist_entries_request",
        )
        .await;
    honest.sql("UPDATE events SET waitlist_size = waitlist_size + 1").await;
    honest.complained_of("waitlist_size is wrong").await;
    honest.sql("UPDATE events SET waitlist_size = waitlist_size - 1, seats_remaining = 1").await;
    honest.complained_of("seats do not add up").await;
    honest.complained_of("somebody waits for free seats").await;
    honest.sql("UPDATE events SET seats_remaining = 0").await;
    assert_eq!(honest.violations().await, Vec::<String>::new(), "as it was");

    honest
        .sql(
            "UPDATE waitlist_entries w SET request_id = r.request_id, request_actor_id = r.request_actor_id
               FROM registrations r WHERE w.position = 1",
        )
        .await;
    honest.complained_of("one request with two effects").await;
    honest
        .sql(
            "INSERT INTO registrations (event_id, id, user_id, seats, state, create_time, update_time)
             SELECT event_id, gen_random_uuid(), user_id, seats, state, create_time, update_time
               FROM registrations LIMIT 1",
        )
        .await;
    honest.complained_of("overbooked").await;
    honest.complained_of("registered twice").await;
    honest.sql("UPDATE registrations SET state = 'CANCELLED'").await;
    honest.complained_of("the log says otherwise").await;
    honest.complained_of("acknowledged, and missing or different").await;
    honest.sql("DELETE FROM changes WHERE version = 4").await;
    honest.complained_of("the log has gaps").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_served_out_of_turn_is_found() {
    let honest = Honest::calls().await;
    let seat: String = sqlx::query_scalar("SELECT id::text FROM registrations LIMIT 1")
        .fetch_one(&honest.system.pool)
        .await
        .unwrap();
    honest.system.admin().cancel(&seat).await.unwrap();
    // The log says that it was the second in the queue who got the seat, and not the first.
    honest
        .sql(
            "UPDATE changes SET entity_id = (SELECT id FROM waitlist_entries WHERE position = 2)
              WHERE action = 'WAITLIST_PROMOTED'",
        )
        .await;
    honest.complained_of("somebody is served before somebody ahead who fits").await;
    // Or nobody from the queue at all.
    honest.sql("UPDATE changes SET details = details - 'waitlist_entry_id' WHERE version > 7").await;
    honest.complained_of("somebody new is served before somebody who waits").await;
    honest.sql("UPDATE changes SET action = 'EVENT_UPDATED' WHERE action IN ('WAITLIST_PROMOTED', 'REGISTRATION_CREATED') AND version > 7").await;
    honest.complained_of("somebody waits although their party fits").await;
    honest.sql("UPDATE changes SET details = '{\"seats\": 9}' WHERE action = 'REGISTRATION_CREATED'").await;
    honest.complained_of("more seats are taken than there are").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_queue_that_skips_only_who_fits_comes_first() {
    let system = System::with_replicas(1).await;
    let skipping = pb::QueueDiscipline::SkipAhead.into();
    let event = pb::Event { queue_discipline: skipping, ..party_draft(4, 4) };
    let event = system.organizer().publish_new(event).await;
    let seat = system.attendee().seats(pb::RegisterRequest { seats: Some(2), ..ask(&event) }).await;
    system.attendee().seats(pb::RegisterRequest { seats: Some(2), ..ask(&event) }).await;
    for seats in [4, 2, 1] {
        let _ = system.attendee().try_register(ask_or_queue(&event, seats)).await.unwrap();
    }
    system.admin().cancel(&seat.registration_id).await.unwrap();
    let honest = Honest { system, event, journal: Journal::default() };
    assert_eq!(honest.violations().await, Vec::<String>::new(), "the party of two before the party of four");
    honest
        .sql(
            "UPDATE changes SET entity_id = (SELECT id FROM waitlist_entries WHERE position = 3)
              WHERE action = 'WAITLIST_PROMOTED'",
        )
        .await;
    honest.complained_of("somebody is served before somebody ahead who fits").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_sessions_leave_behind_is_found() {
    let honest = Honest::calls().await;
    let mut holder = PgConnection::connect(&honest.system.database.url).await.unwrap();
    let mut waiter = PgConnection::connect(&honest.system.database.url).await.unwrap();
    let lock = "BEGIN; SELECT FROM events FOR UPDATE";
    sqlx::raw_sql(lock).execute(&mut holder).await.unwrap();
    let waits = tokio::spawn(async move { sqlx::raw_sql(lock).execute(&mut waiter).await.map(|_| ()) });
    eventually(async || {
        honest.violations().await.iter().any(|complaint| complaint.contains("a lock is stuck"))
    })
    .await;
    honest.complained_of("a session idles in a transaction").await;
    holder.close().await.unwrap();
    waits.await.unwrap().unwrap();
    eventually(async || honest.violations().await.is_empty()).await;
    honest
        .sql("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'changes_by_batch'::regclass")
        .await;
    honest.complained_of("an index is invalid").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_feed_that_differs_from_the_tables_and_a_watch_that_is_told_nothing_are_found() {
    let honest = Honest::calls().await;
    let (admin, pool) = (honest.system.admin(), &honest.system.pool);
    let (wrong, _) = Follower::start(vec![admin.clone()]).end(&admin, pool).await;
    assert_eq!(wrong, Vec::<String>::new());
    let watcher = Watcher::start(&honest.event, vec![admin.clone()]);
    assert_eq!(watcher.end(pool, Duration::from_secs(30)).await, Vec::<String>::new());

    honest.sql("UPDATE waitlist_entries SET state = 'LEFT' WHERE position = 1").await;
    let (wrong, _) = Follower::start(vec![admin.clone()]).end(&admin, pool).await;
    assert!(wrong.iter().any(|complaint| complaint.contains("the table says")), "{wrong:?}");
    assert!(wrong.iter().any(|complaint| complaint.contains("the feed says")), "{wrong:?}");
    let watcher = Watcher::start(&honest.event, vec![admin.clone()]);
    // A change that is in no log is told to nobody who watches already.
    eventually(async || watcher.knows_the_present()).await;
    honest.sql("UPDATE events SET version = version + 1").await;
    let wrong = watcher.end(pool, Duration::from_millis(300)).await;
    assert!(wrong.iter().any(|complaint| complaint.contains("never tells")), "{wrong:?}");
}
