//! Every check is shown what it is for: one violation after the other is planted in a copy of honest rows and honest books,
//! and has to be named.

use std::collections::BTreeSet;

use rowlock_proto::booking::v1 as pb;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use uuid::Uuid;

use crate::acts::{ask_or_queue, offering_draft, party_draft};
use crate::caller::Caller;
use crate::checks::{CHECKS, violations};
use crate::journal::{Answer, Ask, Journal, Made};
use crate::order;
use crate::proof::{self, id};
use crate::sabotage::{Honest, assert_named};
use crate::system::eventually;

/// What the schema itself would not let in has to be planted too. `of('strict')` is the event of that name.
const LOOSEN: &str = r"
DO $$ DECLARE drop text; BEGIN
    FOR drop IN SELECT format('ALTER TABLE %s DROP CONSTRAINT %I', conrelid::regclass, conname)
                  FROM pg_constraint WHERE contype = 'c' AND conrelid IN
                       ('events'::regclass, 'registrations'::regclass, 'waitlist_entries'::regclass) LOOP
        EXECUTE drop;
    END LOOP;
END $$;
DROP INDEX registrations_active, registrations_request, waitlist_entries_active, waitlist_entries_request;
CREATE FUNCTION of(text) RETURNS uuid LANGUAGE sql AS 'SELECT id FROM events WHERE title = $1';
";

/// The check, and what it has to find. The event `strict` has two seats that are taken, three people who wait, and two who
/// were refused; `REFUSED` is the request of one of these.
const ROWS: [(&str, &str); 36] = [
    (
        "one request with two effects",
        "UPDATE waitlist_entries w SET request_id = r.request_id, request_actor_id = r.request_actor_id
           FROM registrations r WHERE w.position = 1 AND w.event_id = of('strict') AND r.event_id = w.event_id",
    ),
    ("acknowledged, and missing or different", "DELETE FROM registrations WHERE event_id = of('strict')"),
    (
        "acknowledged, and missing or different",
        "DELETE FROM waitlist_entries WHERE event_id = of('strict') AND position = 3",
    ),
    (
        "acknowledged, and missing or different",
        "UPDATE registrations SET user_id = gen_random_uuid() WHERE event_id = of('strict')",
    ),
    (
        "acknowledged, and missing or different",
        "UPDATE registrations SET seats = seats + 1 WHERE event_id = of('strict')",
    ),
    (
        "acknowledged, and missing or different",
        "UPDATE registrations SET state = 'CANCELLED' WHERE event_id = of('strict')",
    ),
    (
        "acknowledged, and missing or different",
        "UPDATE waitlist_entries SET state = 'LEFT' WHERE event_id = of('strict') AND position = 1",
    ),
    (
        "acknowledged under another request",
        "UPDATE registrations SET request_id = gen_random_uuid() WHERE event_id = of('strict')",
    ),
    (
        "acknowledged under another request",
        "UPDATE waitlist_entries SET request_actor_id = gen_random_uuid() WHERE event_id = of('strict')",
    ),
    ("refused, and there", "UPDATE registrations SET request_id = 'REFUSED' WHERE event_id = of('strict')"),
    ("refused, and there", "UPDATE waitlist_entries SET request_id = 'REFUSED' WHERE event_id = of('strict')"),
    (
        "there, and nobody was told",
        "INSERT INTO waitlist_entries (event_id, position, id, user_id, seats, state, request_id, request_actor_id,
                                       create_time, update_time)
         SELECT event_id, position + 9, gen_random_uuid(), gen_random_uuid(), seats, state, gen_random_uuid(),
                request_actor_id, create_time, update_time FROM waitlist_entries WHERE event_id = of('strict')",
    ),
    ("an index is invalid", "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'changes_by_batch'::regclass"),
    ("an index is invalid", "UPDATE pg_index SET indisready = false WHERE indexrelid = 'changes_by_time'::regclass"),
    ("seats do not add up", "UPDATE events SET seats_remaining = 1 WHERE title = 'strict'"),
    ("seats do not add up", "UPDATE waitlist_entries SET seats = seats + 1 WHERE state = 'OFFERED'"),
    ("overbooked", "UPDATE events SET capacity = 1, seats_remaining = 0 WHERE title = 'strict'"),
    ("overbooked", "UPDATE events SET seats_remaining = -1 WHERE title = 'strict'"),
    ("waitlist_size is wrong", "UPDATE events SET waitlist_size = waitlist_size + 1 WHERE title = 'strict'"),
    (
        "registered twice",
        "INSERT INTO registrations (event_id, id, user_id, seats, state, create_time, update_time)
         SELECT event_id, gen_random_uuid(), user_id, seats, state, create_time, update_time
           FROM registrations WHERE event_id = of('strict')",
    ),
    (
        "queued twice",
        "UPDATE waitlist_entries w SET user_id = first.user_id FROM waitlist_entries first
          WHERE w.event_id = of('strict') AND w.position = 2 AND first.event_id = w.event_id AND first.position = 1",
    ),
    (
        "registered and queued",
        "UPDATE waitlist_entries w SET user_id = r.user_id FROM registrations r
          WHERE w.event_id = of('strict') AND w.position = 1 AND r.event_id = w.event_id",
    ),
    ("positions have gaps", "UPDATE events SET next_position = next_position + 1 WHERE title = 'strict'"),
    (
        "positions have gaps",
        "UPDATE waitlist_entries SET position = 9 WHERE event_id = of('strict') AND position = 3",
    ),
    ("somebody waits for free seats", "UPDATE events SET seats_remaining = 1 WHERE title = 'strict'"),
    ("somebody waits for free seats", "UPDATE events SET seats_remaining = 1 WHERE title = 'skipping'"),
    (
        "active at a cancelled event",
        "UPDATE registrations SET state = 'CONFIRMED' WHERE event_id = of('cancelled')",
    ),
    (
        "an entry that became nothing",
        "UPDATE waitlist_entries SET registration_id = gen_random_uuid() WHERE state = 'PROMOTED'",
    ),
    (
        "a registration from nowhere",
        "UPDATE registrations r SET waitlist_entry_id = w.id FROM waitlist_entries w
          WHERE r.event_id = of('strict') AND w.event_id = r.event_id AND w.position = 1",
    ),
    ("the log has gaps", "DELETE FROM changes WHERE event_id = of('strict') AND version = 4"),
    ("the log has gaps", "UPDATE events SET version = version + 1 WHERE title = 'strict'"),
    (
        "the log says otherwise of",
        "UPDATE waitlist_entries SET state = 'DECLINED' WHERE state = 'OFFERED'",
    ),
    (
        "the log says otherwise of",
        "UPDATE changes SET subject_id = gen_random_uuid() WHERE event_id = of('strict') AND version = 3",
    ),
    ("the log knows what is not there", "DELETE FROM registrations WHERE event_id = of('skipping')"),
    (
        "too many seats taken at version",
        "UPDATE changes SET details = details || '{\"seats\": 9}' WHERE event_id = of('strict') AND version = 3",
    ),
    (
        "time goes back at version",
        "UPDATE changes SET change_time = change_time - interval '1 hour' WHERE event_id = of('strict') AND version = 5",
    ),
];

/// The same for the order in which people were served, as the log tells it.
const TURNS: [(&str, &str); 7] = [
    (
        order::NOT_WAITING,
        "UPDATE changes SET entity_id = gen_random_uuid() WHERE action = 'WAITLIST_PROMOTED' AND event_id = of('promoting')",
    ),
    (
        order::PASSED,
        "UPDATE changes SET entity_id = (SELECT id FROM waitlist_entries WHERE event_id = of('promoting') AND position = 2)
          WHERE action = 'WAITLIST_PROMOTED' AND event_id = of('promoting')",
    ),
    (
        order::PASSED,
        "UPDATE changes SET entity_id = (SELECT id FROM waitlist_entries WHERE event_id = of('offering') AND position = 2)
          WHERE action = 'WAITLIST_OFFERED' AND event_id = of('offering')",
    ),
    (
        // A party of two fitted, and the one person behind them was served.
        order::PASSED,
        "UPDATE changes SET entity_id = (SELECT id FROM waitlist_entries WHERE event_id = of('skipping') AND position = 3)
          WHERE action = 'WAITLIST_PROMOTED' AND event_id = of('skipping')",
    ),
    (
        order::PASSED_BY_SOMEBODY_NEW,
        "UPDATE changes SET details = details - 'waitlist_entry_id' WHERE event_id = of('promoting') AND version > 6",
    ),
    (
        order::OVERSOLD,
        "UPDATE changes SET details = '{\"seats\": 9}' WHERE action = 'REGISTRATION_CREATED' AND event_id = of('strict')",
    ),
    (
        order::NOT_SERVED,
        "UPDATE changes SET action = 'EVENT_UPDATED' WHERE event_id = of('promoting')
            AND action IN ('WAITLIST_PROMOTED', 'REGISTRATION_CREATED') AND version > 6",
    ),
];

/// Does something that the books of an honest client do not say.
type Lie = fn(&mut Vec<(Ask, Answer)>);

/// What a client is told, and the check that hears it.
const BOOKS: [(&str, Lie); 8] = [
    ("acknowledged, and missing or different", |lines| made(lines).id = Uuid::from_u128(1)),
    ("acknowledged, and missing or different", |lines| made(lines).seats = 2),
    ("acknowledged under another request", |lines| made(lines).id = Uuid::from_u128(1)),
    ("there, and nobody was told", |lines| made(lines).id = Uuid::from_u128(1)),
    ("there, and nobody was told", |lines| lines.truncate(3)),
    ("refused, and there", |lines| lines[0].1 = Answer::Refused("EVENT_FULL".to_owned())),
    ("still unknown", |lines| lines[6].1 = Answer::Unknown("UNAVAILABLE".to_owned())),
    ("refused for what cannot be", |lines| lines[6].1 = Answer::Refused("ALREADY_REGISTERED".to_owned())),
];

/// The first answer, which was a seat.
fn made(lines: &mut [(Ask, Answer)]) -> &mut Made {
    let Answer::Made(made) = &mut lines[0].1 else { panic!("the first answer was no seat") };
    made
}

/// A queue that promotes, one that offers, one that skips, and an event that was cancelled, beside the honest calls.
async fn furnish(honest: &Honest) {
    let system = &honest.system;
    let organizer = system.organizer();
    let named = |title: &str, event| pb::Event { title: title.to_owned(), ..event };
    let queue = async |event: &pb::Event, seats| -> Caller {
        let caller = system.attendee();
        let _ = caller.try_register(ask_or_queue(event, seats)).await.unwrap();
        caller
    };
    for event in [named("promoting", party_draft(1, 1)), named("offering", offering_draft(1))] {
        let event = organizer.publish_new(event).await;
        let seat = system.attendee().seat(&event).await;
        for _ in 0..2 {
            queue(&event, 1).await;
        }
        system.admin().cancel(&seat.registration_id).await.unwrap();
    }
    let skipping = pb::QueueDiscipline::SkipAhead.into();
    let event = pb::Event { queue_discipline: skipping, ..named("skipping", party_draft(4, 4)) };
    let event = organizer.publish_new(event).await;
    let seat = system.attendee().seats(ask_or_queue(&event, 2)).await;
    for seats in [2, 4, 2, 1] {
        queue(&event, seats).await;
    }
    system.admin().cancel(&seat.registration_id).await.unwrap();
    let event = organizer.publish_new(named("cancelled", party_draft(1, 1))).await;
    system.attendee().seat(&event).await;
    organizer.cancel_event(&event, "rain").await.unwrap();
}

fn books_of(lines: Vec<(Ask, Answer)>) -> Journal {
    let journal = Journal::default();
    for (ask, answer) in lines {
        let line = journal.ask(ask);
        journal.answered(line, &answer);
    }
    journal
}

/// Every name that a complaint can have.
fn all_checks() -> BTreeSet<String> {
    let texts = proof::COMPLAINTS.split("SELECT '").skip(1).filter_map(|rest| rest.split('\'').next());
    let of_rows = texts.filter(|text| text.len() > 1).map(|text| text.trim_end_matches([' ', ':']));
    CHECKS.iter().map(|(name, _)| *name).chain(of_rows).chain(order::COMPLAINTS).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_check_names_the_violation_that_is_planted_for_it() {
    let mut honest = Honest::calls().await;
    furnish(&honest).await;
    honest.system.stop().await;
    let title = "UPDATE events SET title = 'strict' WHERE id = $1";
    let strict = id(&honest.event.event_id);
    sqlx::query(title).bind(strict).execute(&honest.system.pool).await.unwrap();
    sqlx::raw_sql(LOOSEN).execute(&honest.system.pool).await.unwrap();
    assert_eq!(honest.violations().await, Vec::<String>::new(), "honest rows");
    honest.system.pool.close().await;

    let mut caught = BTreeSet::new();
    let lines = honest.journal.asks();
    let refused = lines[6].0.request_id.to_string();
    for (name, sql) in ROWS.iter().chain(&TURNS) {
        let copy = honest.system.database.copy().await;
        let pool = copy.pool(2);
        let planted = sqlx::raw_sql(AssertSqlSafe(sql.replace("REFUSED", &refused))).execute(&pool).await;
        assert!(planted.unwrap().rows_affected() > 0, "{sql}");
        assert_named(name, &violations(&copy, &pool, &honest.journal).await);
        caught.insert((*name).to_owned());
    }
    let copy = honest.system.database.copy().await;
    let pool = copy.pool(2);
    for (name, lie) in &BOOKS {
        let mut told = lines.clone();
        lie(&mut told);
        assert_named(name, &violations(&copy, &pool, &books_of(told)).await);
        caught.insert((*name).to_owned());
    }
    let honestly = books_of(lines);
    assert_eq!(violations(&copy, &pool, &honestly).await, Vec::<String>::new(), "honest books");
    caught.extend(sessions_that_hang(&copy.url, async || violations(&copy, &pool, &honestly).await).await);
    assert_eq!(caught, all_checks(), "every check is tried");
}

/// Leaves one session idle in a transaction and lets another one wait for it, until both are complained of.
async fn sessions_that_hang(url: &str, mut complaints: impl AsyncFnMut() -> Vec<String>) -> [String; 2] {
    let names = ["a session idles in a transaction", "a lock is stuck"];
    let mut holder = PgConnection::connect(url).await.unwrap();
    let mut lock = holder.begin().await.unwrap();
    sqlx::query("SELECT FROM events FOR UPDATE").execute(&mut *lock).await.unwrap();
    // With no patience that ends before it is complained of, which sessions of a pool have.
    let mut waiter = PgConnection::connect(url).await.unwrap();
    let waits =
        tokio::spawn(async move { sqlx::query("SELECT FROM events FOR UPDATE").execute(&mut waiter).await });
    eventually(async || {
        let found = complaints().await;
        names.iter().all(|name| found.iter().any(|complaint| complaint.contains(name)))
    })
    .await;
    lock.rollback().await.unwrap();
    waits.await.unwrap().unwrap();
    eventually(async || complaints().await.is_empty()).await;
    names.map(str::to_owned)
}
