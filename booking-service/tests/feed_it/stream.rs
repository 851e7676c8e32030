//! StreamChanges: the whole log, in an order that never has to be corrected.

mod consumer;
mod copy;
mod crash;
mod order;
mod retention;

use rowlock_proto::booking::v1 as pb;
use service_core::validation::timestamp;
use tonic::{Status, Streaming};

use crate::acts::{ask_or_queue, draft, offering_draft};
use crate::caller::Caller;
use crate::proof::id;
use crate::refusal::{assert_refused, invalid};
use crate::system::{System, eventually, now};
use crate::watch::next;

type Told = pb::StreamChangesResponse;

impl Caller {
    async fn stream(&self, token: &str, event_id: &str, follow: bool) -> Result<Streaming<Told>, Status> {
        let (resume_token, event_id) = (token.to_owned(), event_id.to_owned());
        let request = pb::StreamChangesRequest { resume_token, event_id, follow, ..Default::default() };
        Ok(self.changes().stream_changes(request).await?.into_inner())
    }

    /// Everything up to the present.
    async fn read(&self, token: &str, event_id: &str) -> Result<Vec<Told>, Status> {
        let mut stream = self.stream(token, event_id, false).await?;
        let mut told = Vec::new();
        while let Some(message) = next(&mut stream).await? {
            told.push(message);
        }
        Ok(told)
    }
}

/// That many changes.
async fn take(stream: &mut Streaming<Told>, count: usize) -> Vec<Told> {
    let mut told = Vec::new();
    for _ in 0..count {
        told.push(next(stream).await.unwrap().expect("the stream goes on"));
    }
    told
}

fn change(told: &Told) -> &pb::Change {
    told.change.as_ref().unwrap()
}

fn places(told: &[Told]) -> Vec<(String, i64)> {
    told.iter().map(|told| (change(told).event_id.clone(), change(told).version)).collect()
}

/// The log as the table has it.
async fn logged(system: &System) -> Vec<(String, i64)> {
    sqlx::query_as("SELECT event_id::text, version FROM changes ORDER BY batch, event_id, version")
        .fetch_all(&system.pool)
        .await
        .unwrap()
}

/// Asserts that each event's versions come one after the other, from whichever is first.
fn assert_gapless(told: &[Told]) {
    let mut last = std::collections::HashMap::new();
    for change in told.iter().map(change) {
        if let Some(before) = last.insert(change.event_id.clone(), change.version) {
            assert_eq!(change.version, before + 1, "of event {}", change.event_id);
        }
    }
}

/// Two events with a history, and a draft that was deleted.
async fn some_history(system: &System) -> [pb::Event; 2] {
    let organizer = system.organizer();
    let one = organizer.publish_new(draft(2)).await;
    let other = organizer.publish_new(offering_draft(1)).await;
    let gone = organizer.create(draft(1)).await.unwrap();
    organizer.delete_event(&gone).await.unwrap();
    for event in [&one, &other] {
        let people = system.attendees(4);
        for person in &people {
            person.try_register(ask_or_queue(event, 1)).await.unwrap();
        }
        let seat: String = sqlx::query_scalar(
            "SELECT id::text FROM registrations WHERE event_id = $1 AND state = 'CONFIRMED' ORDER BY id LIMIT 1",
        )
        .bind(id(&event.event_id))
        .fetch_one(&system.pool)
        .await
        .unwrap();
        system.admin().cancel(&seat).await.unwrap();
    }
    [one, other]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_is_the_same_at_every_replica_and_goes_on_from_every_token() {
    let system = System::with_replicas(2).await;
    let [one, _] = some_history(&system).await;
    let [reader, other_reader] = [0, 1].map(|n| system.service().at(&system.replicas[n]));
    for event_id in ["", &one.event_id] {
        let told = reader.read("", event_id).await.unwrap();
        let mut all = logged(&system).await;
        all.retain(|(id, _)| event_id.is_empty() || id == event_id);
        assert_eq!(places(&told), all);
        assert_gapless(&told);
        for (index, message) in told.iter().enumerate() {
            let rest = other_reader.read(&message.resume_token, event_id).await.unwrap();
            assert_eq!(rest, told[index + 1..]);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_follows_is_told_of_what_comes() {
    let system = System::with_replicas(2).await;
    let event = system.event(10).await;
    let follower = system.admin().at(&system.replicas[1]);
    let mut all = follower.stream("", "", true).await.unwrap();
    let mut of_event = follower.stream("", &event.event_id, true).await.unwrap();
    take(&mut all, 2).await;
    take(&mut of_event, 2).await;
    for person in system.attendees(5) {
        let seat = person.at(&system.replicas[0]).seat(&event).await;
        for stream in [&mut all, &mut of_event] {
            let told = take(stream, 1).await;
            let change = change(&told[0]);
            assert_eq!(
                (&change.entity_id, change.action()),
                (&seat.registration_id, pb::ChangeAction::RegistrationCreated)
            );
            assert_eq!((&change.actor_id, &change.subject_id), (&person.id.to_string(), &seat.user_id));
            let late = timestamp(now()).seconds - change.change_time.unwrap().seconds;
            assert!(late <= 10, "{late} s");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_goes_on_with_its_own_stream_alone() {
    let system = System::start().await;
    let [one, other] = some_history(&system).await;
    let reader = system.service();
    let of_all = reader.read("", "").await.unwrap()[0].resume_token.clone();
    let of_one = reader.read("", &one.event_id).await.unwrap()[0].resume_token.clone();
    let audit = pb::ListAuditEntriesRequest { page_size: 1, ..pb::ListAuditEntriesRequest::default() };
    let page = system.admin().audits().list_audit_entries(audit).await.unwrap().into_inner().next_page_token;
    let mut damaged = of_all.clone();
    damaged.replace_range(20..21, if &of_all[20..21] == "A" { "B" } else { "A" });
    for (token, event_id) in [
        (of_one.as_str(), ""),
        (&of_one, &other.event_id),
        (&of_all, &one.event_id),
        (&page, ""),
        (&damaged, ""),
        (&of_all[1..], ""),
        ("no token", ""),
    ] {
        invalid(reader.read(token, event_id).await, &["resume_token"]);
    }
    invalid(reader.read("?", "?").await, &["event_id", "resume_token"]);
    let nowhere = system.new_id().to_string();
    assert_refused(&reader.read("", &nowhere).await.unwrap_err(), "EVENT_NOT_FOUND");
    for stranger in [system.attendee(), system.organizer()] {
        assert_refused(&stranger.read("", &one.event_id).await.unwrap_err(), "ROLE_REQUIRED");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rehearsals_are_not_told() {
    let system = System::start().await;
    let event = system.event(5).await;
    let reader = system.service();
    let mut follower = reader.stream("", "", true).await.unwrap();
    take(&mut follower, 2).await;
    for keep_event in [false, true] {
        let request = pb::SimulateRushRequest {
            event_id: event.event_id.clone(),
            users: 1_200,
            keep_event,
            ..pb::SimulateRushRequest::default()
        };
        let mut rush = system.admin().simulations().simulate_rush(request).await.unwrap().into_inner();
        while next(&mut rush).await.unwrap().is_some() {}
    }
    let kept: i64 = sqlx::query_scalar("SELECT count(*) FROM changes WHERE event_id <> $1")
        .bind(id(&event.event_id))
        .fetch_one(&system.pool)
        .await
        .unwrap();
    assert!(kept > 0, "the copy is kept with its log");
    system.attendee().seat(&event).await;
    assert_eq!(places(&take(&mut follower, 1).await), [(event.event_id.clone(), 3)]);
    assert_eq!(reader.read("", "").await.unwrap().len(), 3);
}

/// A stream that begins at the present, and where that is.
async fn at_present(reader: &Caller, event_id: &str, follow: bool) -> (Streaming<Told>, String) {
    let event_id = event_id.to_owned();
    let request = pb::StreamChangesRequest { event_id, follow, from_present: true, ..Default::default() };
    let mut stream = reader.changes().stream_changes(request).await.unwrap().into_inner();
    let first = next(&mut stream).await.unwrap().unwrap();
    assert_eq!(first.change, None);
    (stream, first.resume_token)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_begins_at_the_present_tells_where_that_is_and_all_that_comes_later() {
    let system = System::with_replicas(2).await;
    let reader = system.service();
    let (mut of_nothing, token) = at_present(&reader, "", true).await;
    assert_eq!(token, "", "there never was a change");
    let event = system.event(5).await;
    let others = system.event(5).await;
    let place = |event: &pb::Event, version| (event.event_id.clone(), version);
    assert_eq!(places(&take(&mut of_nothing, 2).await), [place(&event, 1), place(&event, 2)]);
    for event_id in ["", &event.event_id] {
        let version = i64::try_from(system.log(&event).await.len()).unwrap();
        // What was committed shortly before may come.
        let old = eventually_at_present(&system, &reader, event_id, &event, version).await;
        let (mut stream, token) = at_present(&reader, event_id, true).await;
        system.attendee().seat(&event).await;
        assert_eq!(places(&take(&mut stream, 1).await), [place(&event, version + 1)]);
        for token in [token, old] {
            let told =
                take(&mut reader.at(&system.replicas[1]).stream(&token, event_id, true).await.unwrap(), 1)
                    .await;
            assert_eq!(places(&told), [place(&event, version + 1)]);
        }
    }
    let (_, token) = at_present(&reader, &others.event_id, false).await;
    assert_eq!(reader.read(&token, &others.event_id).await.unwrap(), []);
}

/// A token of the present once this version of the event is before it: a transaction of another test, on the same server,
/// may hold that up.
async fn eventually_at_present(
    system: &System,
    reader: &Caller,
    event_id: &str,
    event: &pb::Event,
    version: i64,
) -> String {
    let mut present = String::new();
    eventually(async || {
        let (mut stream, token) = at_present(reader, event_id, false).await;
        let is_present = next(&mut stream).await.unwrap().is_none();
        present = token;
        is_present && i64::try_from(system.log(event).await.len()).unwrap() == version
    })
    .await;
    present
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_log_ends_at_once_and_can_be_followed() {
    let system = System::start().await;
    let reader = system.service();
    assert_eq!(reader.read("", "").await.unwrap(), []);
    let mut follower = reader.stream("", "", true).await.unwrap();
    let event = system.event(1).await;
    assert_eq!(
        places(&take(&mut follower, 2).await),
        [(event.event_id.clone(), 1), (event.event_id.clone(), 2)]
    );
    let told = reader.read("", "").await.unwrap();
    assert_eq!(reader.read(&told[1].resume_token, "").await.unwrap(), []);
    eventually(async || reader.read(&told[0].resume_token, "").await.unwrap().len() == 1).await;
}
