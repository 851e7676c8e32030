//! ListAuditEntries: who did what, newest first; and what lists cost however much there is.

use std::collections::HashMap;
use std::time::Duration;

use booking_service::domain::change::ChangeAction as Logged;
use booking_service::domain::event::EventState;
use booking_service::store::changes::{self, AuditFilter, Place};
use booking_service::store::due;
use booking_service::store::events::{self, EventFilter};
use booking_service::store::reading_options;
use rowlock_proto::booking::v1 as pb;
use rowlock_proto::booking::v1::ChangeAction;
use service_core::database::connect_options;
use service_core::validation::timestamp;
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use uuid::Uuid;

use crate::acts::{ask, draft};
use crate::caller::Caller;
use crate::refusal::{assert_refused, invalid};
use crate::system::{System, now};

impl Caller {
    async fn audit(
        &self,
        request: pb::ListAuditEntriesRequest,
    ) -> Result<pb::ListAuditEntriesResponse, tonic::Status> {
        Ok(self.audits().list_audit_entries(request).await?.into_inner())
    }
}

fn all() -> pb::ListAuditEntriesRequest {
    pb::ListAuditEntriesRequest::default()
}

fn of(event: &pb::Event) -> pb::ListAuditEntriesRequest {
    pb::ListAuditEntriesRequest { event_id: event.event_id.clone(), ..all() }
}

fn by(actor: &Caller) -> pb::ListAuditEntriesRequest {
    pb::ListAuditEntriesRequest { actor_id: actor.id.to_string(), ..all() }
}

async fn actions(caller: &Caller, request: pb::ListAuditEntriesRequest) -> Vec<ChangeAction> {
    caller.audit(request).await.unwrap().entries.iter().map(pb::Change::action).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_happens_by_itself_has_no_actor() {
    let system = System::start().await;
    let event = system.event(1).await;
    let (ada, bob) = (system.attendee(), system.attendee());
    let seat = ada.seat(&event).await;
    bob.join(&event).await.unwrap();
    ada.cancel(&seat.registration_id).await.unwrap();
    let actions = vec![ChangeAction::WaitlistPromoted.into(), ChangeAction::RegistrationCancelled.into()];
    let trail = system.admin().audit(pb::ListAuditEntriesRequest { actions, ..of(&event) }).await.unwrap();
    let by: Vec<(ChangeAction, pb::ActorRole, String)> =
        trail.entries.iter().map(|e| (e.action(), e.actor_role(), e.actor_id.clone())).collect();
    let expected = [
        (ChangeAction::WaitlistPromoted, pb::ActorRole::System, String::new()),
        (ChangeAction::RegistrationCancelled, pb::ActorRole::Attendee, ada.id.to_string()),
    ];
    assert_eq!(by, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_trail_is_filtered_by_event_actor_action_and_time() {
    let system = System::start().await;
    let (organizer, guest, admin) = (system.organizer(), system.attendee(), system.admin());
    let event = organizer.publish_new(draft(2)).await;
    let other = organizer.create(draft(2)).await.unwrap();
    let seat = guest.seat(&event).await;
    admin.cancel(&seat.registration_id).await.unwrap();
    use ChangeAction::{
        EventCreated as Created, EventPublished as Published, RegistrationCancelled as Cancelled,
        RegistrationCreated as Registered,
    };
    assert_eq!(actions(&admin, all()).await, [Cancelled, Registered, Created, Published, Created]);
    assert_eq!(actions(&admin, of(&event)).await, [Cancelled, Registered, Published, Created]);
    assert_eq!(actions(&admin, by(&organizer)).await, [Created, Published, Created]);
    assert_eq!(actions(&admin, by(&guest)).await, [Registered]);
    assert_eq!(actions(&admin, by(&admin)).await, [Cancelled]);
    let both = pb::ListAuditEntriesRequest { event_id: event.event_id.clone(), ..by(&guest) };
    assert_eq!(actions(&organizer, both).await, [Registered]);
    let some = vec![Registered.into(), Published.into()];
    assert_eq!(
        actions(&admin, pb::ListAuditEntriesRequest { actions: some, ..all() }).await,
        [Registered, Published]
    );
    // From a time on, and before a time: together they are everything, once.
    let registered = admin.audit(by(&guest)).await.unwrap().entries[0].change_time;
    let after = pb::ListAuditEntriesRequest { change_time_after: registered, ..all() };
    let before = pb::ListAuditEntriesRequest { change_time_before: registered, ..all() };
    for (request, expected) in [
        (after.clone(), &[Cancelled, Registered][..]),
        (before.clone(), &[Created, Published, Created]),
        (pb::ListAuditEntriesRequest { event_id: event.event_id.clone(), ..before }, &[Published, Created]),
        (pb::ListAuditEntriesRequest { actor_id: guest.id.to_string(), ..after }, &[Registered]),
    ] {
        assert_eq!(actions(&admin, request).await, expected);
    }
    let told: Vec<_> = admin.audit(of(&event)).await.unwrap().entries;
    assert_eq!(told[0].actor_role(), pb::ActorRole::Admin);
    assert_eq!((&told[0].actor_id, &told[0].subject_id), (&admin.id.to_string(), &guest.id.to_string()));

    // Organizers: their own events, nothing else.
    assert_eq!(actions(&organizer, of(&other)).await, [Created]);
    assert_refused(&organizer.audit(all()).await.unwrap_err(), "ROLE_REQUIRED");
    assert_refused(&organizer.audit(by(&organizer)).await.unwrap_err(), "ROLE_REQUIRED");
    // What is published is known to everybody; a draft is not.
    assert_refused(&system.organizer().audit(of(&event)).await.unwrap_err(), "ROLE_REQUIRED");
    assert_refused(&system.organizer().audit(of(&other)).await.unwrap_err(), "EVENT_NOT_FOUND");
    for stranger in [&guest, &system.service()] {
        assert_refused(&stranger.audit(of(&event)).await.unwrap_err(), "ROLE_REQUIRED");
    }
    // Of a deleted draft the trail is left, for admins.
    organizer.delete_event(&other).await.unwrap();
    assert_eq!(actions(&admin, of(&other)).await, [ChangeAction::EventDeleted, Created]);
    assert_refused(&organizer.audit(of(&other)).await.unwrap_err(), "EVENT_NOT_FOUND");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_question_about_the_trail_is_told_all_that_is_wrong() {
    let system = System::start().await;
    let request = pb::ListAuditEntriesRequest {
        event_id: "x".to_owned(),
        actor_id: "y".to_owned(),
        actions: vec![0, 1, 99],
        change_time_after: Some(timestamp(now())),
        change_time_before: Some(timestamp(now() - Duration::from_secs(60))),
        page_size: -1,
        page_token: String::new(),
    };
    invalid(
        system.admin().audit(request).await,
        &["actions[0]", "actions[2]", "actor_id", "change_time_before", "event_id", "page_size"],
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_the_trail_are_complete_while_it_grows() {
    let system = System::with_replicas(2).await;
    let (event, other) = (system.event(1_000_000).await, system.event(1_000_000).await);
    let guest = system.attendee();
    guest.seat(&event).await;
    system.seat_many(&event, 300).await;
    guest.seat(&other).await;
    let admin = system.admin();
    let everything =
        admin.audit(pb::ListAuditEntriesRequest { page_size: 1_000, ..all() }).await.unwrap().entries;
    assert_eq!(everything.len(), 2 + 2 + 300 + 2);
    let pages = async |request: pb::ListAuditEntriesRequest, size: i32| {
        let (mut entries, mut page_token) = (Vec::new(), String::new());
        loop {
            let page = pb::ListAuditEntriesRequest { page_size: size, page_token, ..request.clone() };
            let page = admin.audit(page).await.unwrap();
            assert!(page.entries.len() <= usize::try_from(size).unwrap());
            entries.extend(page.entries);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return entries;
            }
            // Somebody comes between any two pages.
            system.service().register_somebody(ask(&event)).await;
        }
    };
    for (request, size) in [(all(), 40), (of(&event), 40), (by(&guest), 1)] {
        let expected: Vec<_> = everything
            .iter()
            .filter(|entry| request.event_id.is_empty() || entry.event_id == request.event_id)
            .filter(|entry| request.actor_id.is_empty() || entry.actor_id == request.actor_id)
            .cloned()
            .collect();
        let mut listed = pages(request, size).await;
        // Who came between the calls above is on top; from there on it is what was there.
        let at =
            listed.iter().position(|entry| entry == &expected[0]).expect("the newest of before is there");
        assert_eq!(listed.split_off(at), expected);
    }
    let token =
        admin.audit(pb::ListAuditEntriesRequest { page_size: 1, ..all() }).await.unwrap().next_page_token;
    let elsewhere = pb::ListAuditEntriesRequest { page_token: token, ..of(&event) };
    assert_refused(&admin.audit(elsewhere).await.unwrap_err(), "PAGE_TOKEN_INVALID");
}

/// How much was read, by table: whole scans of it, and rows fetched through its indexes.
async fn reads(pool: &PgPool) -> HashMap<String, (i64, i64)> {
    sqlx::query("SELECT pg_stat_force_next_flush()").execute(pool).await.unwrap();
    // The session reports when it is idle, before the next statement.
    let rows: Vec<(String, i64, i64)> = sqlx::query_as(
        "SELECT relname::text, seq_scan, COALESCE(idx_tup_fetch, 0) FROM pg_stat_user_tables
          WHERE relname IN ('events', 'changes', 'registrations', 'waitlist_entries')",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    rows.into_iter().map(|(table, scans, rows)| (table, (scans, rows))).collect()
}

/// Fills the tables: events over three years by 1,000 organizers, every fifth open until its end, three changes and one registration of each.
async fn fill(pool: &PgPool, events: i64) {
    for statement in [
        "INSERT INTO events (id, organizer_id, title, description, location, start_time, end_time,
                             registration_close_time, capacity,
                             seats_remaining, max_seats_per_registration, waitlist_policy, offer_ttl_ms,
                             queue_discipline, state, version, create_time, update_time)
         SELECT md5('e' || n)::uuid, md5('o' || n % 1000)::uuid, 'title' || n % 5000, '', 'Town' || n % 50,
                now() + (n * 15 - $1 * 5) * interval '1 minute', now() + (n * 15 - $1 * 5 + 60) * interval '1 minute',
                CASE WHEN n % 5 = 0 THEN now() + (n * 15 - $1 * 5 + 60) * interval '1 minute' END, 10, CASE WHEN n % 3 = 0 THEN 9 ELSE 0 END, 1, 'PROMOTE', 60000, 'STRICT',
                (ARRAY['DRAFT', 'PUBLISHED', 'PUBLISHED', 'CANCELLED'])[1 + n % 4], 3, now(), now()
           FROM generate_series(1, $1) n",
        "INSERT INTO changes (event_id, version, actor_id, actor_role, action, entity_id, details, change_time, batch)
         SELECT md5('e' || n)::uuid, v,
                CASE WHEN v = 3 THEN md5('a' || n % 20000)::uuid ELSE md5('o' || n % 1000)::uuid END,
                CASE WHEN v = 3 THEN 'ATTENDEE' ELSE 'ORGANIZER' END,
                (ARRAY['EVENT_CREATED', 'EVENT_PUBLISHED', 'REGISTRATION_CREATED'])[v], md5('e' || n)::uuid, '{}',
                now() + (n - $1) * interval '1 minute', n
           FROM generate_series(1, $1) n, generate_series(1, 3) v ORDER BY n, v",
        "INSERT INTO registrations (event_id, id, user_id, seats, state, create_time, update_time)
         SELECT md5('e' || n)::uuid, md5('r' || n)::uuid, md5('a' || n % 20000)::uuid, 1, 'CONFIRMED', now(), now()
           FROM generate_series(1, $1) n",
        "INSERT INTO registrations (event_id, id, user_id, seats, state, hold_expire_time, create_time, update_time)
         SELECT md5('held' || n)::uuid, md5('h' || n)::uuid, md5('a' || n)::uuid, 1, 'HELD', now() + interval '1 day', now(), now()
           FROM generate_series(1, $1 / 10) n",
        "INSERT INTO waitlist_entries (event_id, position, id, user_id, seats, state, offer_expire_time, create_time, update_time)
         SELECT md5('held' || n)::uuid, 1, md5('w' || n)::uuid, md5('b' || n)::uuid, 1, 'OFFERED', now() + interval '1 day', now(), now()
           FROM generate_series(1, $1 / 10) n",
    ] {
        sqlx::query(statement).bind(events).execute(pool).await.unwrap();
    }
    // What autovacuum does in the background.
    for table in [
        "VACUUM ANALYZE events",
        "VACUUM ANALYZE changes",
        "VACUUM ANALYZE registrations",
        "VACUUM ANALYZE waitlist_entries",
    ] {
        sqlx::query(table).execute(pool).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_list_reads_more_than_a_little_of_a_large_table() {
    let system = System::start().await;
    let count = 100_000;
    let loader = system.database.pool(1);
    sqlx::query("SET statement_timeout = 0").execute(&loader).await.unwrap();
    fill(&loader, count).await;
    let known = async |text: &'static str| -> Uuid {
        sqlx::query_scalar("SELECT md5($1)::uuid").bind(text).fetch_one(&loader).await.unwrap()
    };
    let (event, organizer, attendee) = (known("e77").await, known("o7").await, known("a77").await);

    // One session of the kind that the service reads with, so that its statistics are ours.
    let session = connect_options(&system.database.config(), "rowlock-test").options(reading_options());
    let pool = PgPoolOptions::new().max_connections(1).connect_lazy_with(session);
    let month = Duration::from_secs(30 * 86_400);
    let none = EventFilter { drafts_of: Some(attendee), ..EventFilter::default() };
    let lists = [
        ("all", none.clone()),
        ("published", EventFilter { states: vec![EventState::Published], ..none.clone() }),
        ("organizer", EventFilter { organizer_id: Some(organizer), ..none.clone() }),
        ("own", EventFilter { organizer_id: Some(organizer), drafts_of: Some(organizer), ..none.clone() }),
        (
            "month",
            EventFilter {
                start_time_after: Some(now()),
                start_time_before: Some(now() + month),
                ..none.clone()
            },
        ),
        ("text", EventFilter { text: Some("title77".to_owned()), ..none.clone() }),
        ("text and place", EventFilter { text: Some("Town27 title77".to_owned()), ..none.clone() }),
        ("available", EventFilter { only_available: true, ..none.clone() }),
        (
            "available of organizer",
            EventFilter { only_available: true, organizer_id: Some(organizer), ..none.clone() },
        ),
        ("nobody's drafts", EventFilter { states: vec![EventState::Draft], ..none.clone() }),
        (
            "drafts of organizer",
            EventFilter {
                states: vec![EventState::Draft],
                organizer_id: Some(organizer),
                drafts_of: None,
                ..none
            },
        ),
    ];
    let mut costs = Vec::new();
    // More often than a cached plan waits for.
    for round in 0..8 {
        for (name, filter) in &lists {
            for after in [None, Some((now() + month, Uuid::nil()))] {
                let before = reads(&pool).await;
                events::list(&pool, filter, after, 51).await.unwrap();
                costs.push((round, *name, before, reads(&pool).await));
            }
        }
        let trails = [
            ("whole trail", AuditFilter::default()),
            ("of event", AuditFilter { event_id: Some(event), ..AuditFilter::default() }),
            (
                "of event by",
                AuditFilter { event_id: Some(event), actor_id: Some(attendee), ..AuditFilter::default() },
            ),
            ("by staff", AuditFilter { actor_id: Some(organizer), ..AuditFilter::default() }),
            ("by attendee", AuditFilter { actor_id: Some(attendee), ..AuditFilter::default() }),
            ("actions", AuditFilter { actions: vec![Logged::EventCreated], ..AuditFilter::default() }),
            (
                "an hour long ago",
                AuditFilter {
                    time_after: Some(now() - Duration::from_secs(10_000 * 60)),
                    time_before: Some(now() - Duration::from_secs(9_940 * 60)),
                    ..AuditFilter::default()
                },
            ),
        ];
        for (name, filter) in trails {
            for place in [None, Some(Place { batch: count / 2, event_id: Uuid::nil(), version: 0 })] {
                let before = reads(&pool).await;
                changes::audit(&pool, &filter, place, 51).await.unwrap();
                costs.push((round, name, before, reads(&pool).await));
            }
        }
        let before = reads(&pool).await;
        changes::after(&pool, Place { batch: count / 2, ..Place::default() }, count, 500).await.unwrap();
        changes::of_event_after(&pool, event, 1, 500).await.unwrap();
        changes::seats(&pool, &[event]).await.unwrap();
        changes::first_version(&pool, event).await.unwrap();
        costs.push((round, "stream", before, reads(&pool).await));
        let before = reads(&pool).await;
        assert_eq!(due::holds(&pool, &[], 1_000).await.unwrap(), []);
        assert_eq!(due::offers(&pool, &[], 1_000).await.unwrap(), []);
        costs.push((round, "what is due", before, reads(&pool).await));
    }
    for (round, name, before, after) in costs {
        for (table, (scans, rows)) in after {
            let (scans, rows) = (scans - before[&table].0, rows - before[&table].1);
            assert_eq!(scans, 0, "{name} scans {table} in round {round}");
            assert!(rows < 4_000, "{name} reads {rows} rows of {table} in round {round}");
        }
    }
}
