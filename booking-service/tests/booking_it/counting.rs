//! GetEventStats and VerifyEvent.

use rowlock_proto::booking::v1 as pb;

use crate::acts::{ask, offering_draft, party_draft};
use crate::interference::connections_are_left;
use crate::proof::id;
use crate::system::{System, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_numbers_of_an_event_are_those_of_its_rows() {
    let system = System::start().await;
    let organizer = system.organizer();
    let event =
        organizer.publish_new(pb::Event { max_seats_per_registration: Some(4), ..offering_draft(10) }).await;
    let empty = organizer.stats(&event).await.unwrap();
    let nothing = pb::GetEventStatsResponse { seats_remaining: 10, ..pb::GetEventStatsResponse::default() };
    assert_eq!(empty, nothing);

    let party = |seats| pb::RegisterRequest { seats: Some(seats), ..ask(&event) };
    let (ada, bob, eve) = (system.attendee(), system.attendee(), system.attendee());
    let first = ada.seats(party(2)).await;
    let lapsed = system.attendee();
    let hold = lapsed.hold(&event, 600).await;
    sqlx::query("UPDATE registrations SET hold_expire_time = now() WHERE id = $1")
        .bind(id(&hold.registration_id))
        .execute(&system.pool)
        .await
        .unwrap();
    eventually(async || {
        lapsed.registration(&hold.registration_id).await.unwrap().state() == pb::RegistrationState::Expired
    })
    .await;
    let arrived = bob.seats(party(3)).await;
    organizer.check_in(&arrived.registration_id).await.unwrap();
    let gone = eve.seats(party(3)).await;
    let last = system.attendee().hold(&event, 600).await;
    // 9 taken, 1 free: these wait.
    system.attendee().join_for(&event, 3).await;
    system.attendee().join_for(&event, 4).await;
    eve.cancel(&gone.registration_id).await.unwrap();
    // 3 offered, 1 free, and a party of 4 waits for it.
    let expected = pb::GetEventStatsResponse {
        confirmed: 1,
        held: 1,
        checked_in: 1,
        cancelled: 1,
        expired: 1,
        seats_confirmed: 2,
        seats_held: 1,
        seats_checked_in: 3,
        waiting: 1,
        offered: 1,
        seats_waiting: 4,
        seats_offered: 3,
        seats_remaining: 1,
        idle_seats: 1,
        filled_percent: 50.0,
        first_registration_time: first.create_time,
        last_registration_time: last.create_time,
    };
    let stats = organizer.stats(&event).await.unwrap();
    assert_eq!(stats, expected);
    assert_eq!(system.admin().stats(&event).await.unwrap(), stats);
    crate::refusal::refused(lapsed.register(&event).await, "EVENT_FULL");
    system.assert_consistent(&event).await;

    let proof = organizer.verify(&event).await.unwrap();
    let version = organizer.get_event(&event).await.unwrap().version;
    let expected = pb::VerifyEventResponse {
        consistent: true,
        findings: vec![],
        capacity: 10,
        seats_remaining: 1,
        seats_held: 1,
        seats_confirmed: 2,
        seats_checked_in: 3,
        seats_offered: 3,
        waiting_entries: 1,
        version,
    };
    assert_eq!(proof, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_wrong_with_the_rows_of_an_event_is_found() {
    let system = System::start().await;
    let organizer = system.organizer();
    let event = organizer.publish_new(party_draft(5, 3)).await;
    let party = |seats| pb::RegisterRequest { seats: Some(seats), ..ask(&event) };
    system.attendee().seats(party(2)).await;
    system.attendee().seats(party(2)).await;
    system.attendee().join_for(&event, 2).await;
    system.attendee().join_for(&event, 3).await;
    let mut tx = system.pool.begin().await.unwrap();
    // A damaged index would let such rows in.
    for statement in ["DROP INDEX registrations_active", "DROP INDEX waitlist_entries_active"] {
        sqlx::query(statement).execute(&mut *tx).await.unwrap();
    }
    tx.commit().await.unwrap();
    for (damage, repair, check) in [
        (
            "UPDATE events SET seats_remaining = 0",
            "UPDATE events SET seats_remaining = 1",
            "capacity_is_remaining_plus_taken",
        ),
        (
            "UPDATE registrations SET seats = seats + 1",
            "UPDATE registrations SET seats = seats - 1",
            "capacity_is_remaining_plus_taken",
        ),
        (
            "UPDATE events SET waitlist_size = 3",
            "UPDATE events SET waitlist_size = 2",
            "waitlist_size_is_waiting_entries",
        ),
        (
            "UPDATE registrations SET request_id = user_id, user_id = '00000000-0000-0000-0000-000000000001'",
            "UPDATE registrations SET user_id = request_id, request_id = NULL",
            "one_active_registration_per_user",
        ),
        (
            "UPDATE waitlist_entries SET request_id = user_id, user_id = '00000000-0000-0000-0000-000000000001'",
            "UPDATE waitlist_entries SET user_id = request_id, request_id = NULL",
            "one_active_entry_per_user",
        ),
        (
            "UPDATE waitlist_entries w SET request_id = w.user_id, user_id = r.user_id FROM registrations r
              WHERE w.position = 1 AND r.id = (SELECT min(id::text)::uuid FROM registrations)",
            "UPDATE waitlist_entries SET user_id = request_id, request_id = NULL WHERE position = 1",
            "nobody_is_registered_and_queued",
        ),
        (
            "UPDATE events SET next_position = 2",
            "UPDATE events SET next_position = 3",
            "next_position_is_beyond_all",
        ),
        (
            "UPDATE events SET version = version + 1",
            "UPDATE events SET version = version - 1",
            "version_is_last_change",
        ),
        (
            "UPDATE changes SET version = 100 WHERE version = 3",
            "UPDATE changes SET version = 3 WHERE version = 100",
            "change_log_is_gapless",
        ),
        (
            "UPDATE waitlist_entries SET seats = seats - 1",
            "UPDATE waitlist_entries SET seats = seats + 1",
            "nobody_waits_for_free_seats",
        ),
        (
            // A small party behind a large one, for which there is no room.
            "UPDATE events SET queue_discipline = 'SKIP_AHEAD';
             UPDATE waitlist_entries SET seats = 1 WHERE position = 2",
            "UPDATE waitlist_entries SET seats = 3 WHERE position = 2;
             UPDATE events SET queue_discipline = 'STRICT'",
            "nobody_waits_for_free_seats",
        ),
    ] {
        assert!(organizer.verify(&event).await.unwrap().consistent);
        sqlx::raw_sql(damage).execute(&system.pool).await.unwrap();
        let proof = organizer.verify(&event).await.unwrap();
        assert!(!proof.consistent);
        let found: Vec<&str> = proof.findings.iter().map(|finding| finding.check.as_str()).collect();
        assert!(found.contains(&check), "{damage}: {found:?}");
        assert!(proof.findings.iter().all(|finding| !finding.detail.is_empty()));
        sqlx::raw_sql(repair).execute(&system.pool).await.unwrap();
    }
    assert!(organizer.verify(&event).await.unwrap().consistent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn however_many_count_or_give_it_up_the_others_have_connections() {
    let system = System::start().await;
    connections_are_left(&system, "first_time", 2, |event| {
        let admin = system.admin();
        async move { admin.stats(&event).await }
    })
    .await;
}
