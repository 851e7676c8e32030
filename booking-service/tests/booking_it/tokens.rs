//! What is sent in place of a good access token.

use std::sync::atomic::Ordering;
use std::time::Duration;

use rowlock_proto::booking::v1::ListEventsRequest;
use rowlock_proto::booking::v1::event_service_client::EventServiceClient;
use service_core::auth::Role;
use service_core::test_support::token_cases;
use tonic::metadata::MetadataMap;
use tonic::{Extensions, Request, Status};

use crate::refusal::{assert_refused, refused};
use crate::system::System;

async fn list_events(system: &System, metadata: MetadataMap) -> Result<(), Status> {
    let mut events = EventServiceClient::new(system.replicas[0].channel.clone());
    let request = Request::from_parts(metadata, Extensions::new(), ListEventsRequest::default());
    events.list_events(request).await.map(|_| ())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_way_to_forge_bend_or_misplace_a_token_is_refused() {
    let system = System::start().await;
    let mut wrong = Vec::new();
    for case in token_cases(&system.mint, system.new_id(), Role::Organizer) {
        match (list_events(&system, case.metadata).await, case.refusal) {
            (Ok(()), None) => {}
            (Err(status), Some(reason)) if status.message().contains("token") => {
                assert_refused(&status, reason);
            }
            (answer, expected) => wrong.push(format!("{}: {answer:?}, not {expected:?}", case.name)),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn made_up_keys_do_not_make_it_ask_identity_at_will() {
    let system = System::start().await;
    let id = system.new_id();
    let began = std::time::Instant::now();
    for n in 0..300 {
        let token = system.mint.token_with(
            id,
            Role::Admin,
            |_| {},
            |header| header.kid = Some(format!("made-up-{n}")),
        );
        let caller = crate::caller::Caller::new(id, &token, system.replicas[0].channel.clone());
        refused(caller.events().list_events(ListEventsRequest::default()).await, "TOKEN_INVALID");
    }
    // The first fetch, and one more for each 5 seconds.
    let most = 2 + usize::try_from(began.elapsed().as_secs() / 5).unwrap();
    let fetches = system.identity.fetches.load(Ordering::SeqCst);
    assert!((1..=most).contains(&fetches), "{fetches} fetches in {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(60));
}
