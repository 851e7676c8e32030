//! Tokens that identity-service has revoked: how booking learns of them, and what it does when it cannot.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use booking_service::config::{ServeConfig, WhenStale};
use booking_service::identity::ServiceAccount;
use rowlock_proto::booking::v1 as pb;
use service_core::auth::Role;
use service_core::secret::Secret;
use service_core::status::{Failure, reason};
use tokio::net::TcpListener;
use tokio::time::timeout;
use tonic::{Code, Status, Streaming};
use uuid::Uuid;

use crate::acts::draft;
use crate::caller::Caller;
use crate::identity::{CLIENT_SECRET, Identity};
use crate::refusal::{assert_refused, refused};
use crate::system::{PATIENCE, Replica, System, eventually, get};

/// With a service account.
pub(crate) fn informed(config: &mut ServeConfig) {
    let client_secret = Secret::new(CLIENT_SECRET);
    config.tokens.revocations.account =
        Some(ServiceAccount { client_id: "booking".to_owned(), client_secret });
}

/// The knowledge is stale after a second.
fn impatient(config: &mut ServeConfig) {
    informed(config);
    config.tokens.revocations.max_age = Duration::from_secs(1);
}

fn strict(config: &mut ServeConfig) {
    informed(config);
    // Longer than this machine ever makes a heartbeat wait.
    config.tokens.revocations.max_age = Duration::from_secs(3);
    config.tokens.revocations.when_stale = WhenStale::Refuse;
}

/// Somebody with a token of this session and version.
fn signed_in(system: &System, role: Role, id: Uuid, session: Uuid, version: i64) -> Caller {
    let token = system.mint.token_with(
        id,
        role,
        |claims| {
            claims.sid = Some(session.to_string());
            claims.sv = version;
        },
        |_| {},
    );
    Caller::new(id, &token, system.replicas[0].channel.clone())
}

async fn revoked_everywhere(system: &System, caller: &Caller, event: &pb::Event) {
    for replica in &system.replicas {
        let caller = caller.at(replica);
        eventually(async || caller.get_event(event).await.is_err()).await;
        refused(caller.get_event(event).await, "TOKEN_REVOKED");
    }
}

async fn good_everywhere(system: &System, caller: &Caller, event: &pb::Event) {
    for replica in &system.replicas {
        caller.at(replica).get_event(event).await.unwrap();
    }
}

async fn end_of<T: Debug>(mut stream: Streaming<T>) -> Status {
    let end = async {
        loop {
            match stream.message().await {
                Ok(message) => assert!(message.is_some(), "it ends with a status"),
                Err(status) => return status,
            }
        }
    };
    timeout(PATIENCE, end).await.expect("it ends")
}

async fn readiness_says(replica: &Replica, status: &str, word: &str) {
    eventually(async || {
        let (head, body) = get(replica.http, "/readyz").await;
        head.contains(status) && body.contains(word)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_session_is_refused_at_every_replica_also_where_its_token_is_remembered() {
    let system = System::with(2, informed).await;
    let event = system.event(5).await;
    let (ada, one, other) = (system.new_id(), system.new_id(), system.new_id());
    let here = signed_in(&system, Role::Attendee, ada, one, 1);
    let there = signed_in(&system, Role::Attendee, ada, other, 1);
    good_everywhere(&system, &here, &event).await;
    good_everywhere(&system, &there, &event).await;
    system.identity.revocations.session(one);
    revoked_everywhere(&system, &here, &event).await;
    good_everywhere(&system, &there, &event).await;
    good_everywhere(&system, &system.attendee(), &event).await;
    // Replicas of other tests set the same gauge, also to 0, and this one's do so again at each sign of life.
    for name in ["revocations_stream_up 1", "revocations_age_seconds", "revocations_known"] {
        eventually(async || get(system.replicas[0].http, "/metrics").await.1.contains(name)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn older_versions_of_a_user_are_refused_in_whatever_order_the_news_come() {
    let system = System::with(2, informed).await;
    let event = system.event(5).await;
    let (ada, session) = (system.new_id(), system.new_id());
    let version = |version| signed_in(&system, Role::Attendee, ada, session, version);
    let identity = &system.identity.revocations;
    for minimum in [5, 3, 5, 2] {
        identity.user(ada, minimum);
    }
    revoked_everywhere(&system, &version(4), &event).await;
    // The last of the news has come when this one has.
    identity.session(system.new_id());
    identity.user(system.new_id(), 2);
    let marker = system.new_id();
    identity.session(marker);
    revoked_everywhere(&system, &signed_in(&system, Role::Attendee, marker, marker, 1), &event).await;
    refused(version(4).get_event(&event).await, "TOKEN_REVOKED");
    good_everywhere(&system, &version(5), &event).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_streams_of_a_revoked_token_end_and_those_of_others_go_on() {
    let system = System::with(1, informed).await;
    let event = system.event(5).await;
    let (ada, session) = (system.new_id(), system.new_id());
    let admin = signed_in(&system, Role::Admin, ada, session, 1);
    let watch = pb::WatchEventRequest { event_id: event.event_id.clone() };
    let watching = admin.events().watch_event(watch.clone()).await.unwrap().into_inner();
    let mut other = system.attendee().events().watch_event(watch).await.unwrap().into_inner();
    let follow = pb::StreamChangesRequest { follow: true, ..Default::default() };
    let streaming = admin.changes().stream_changes(follow).await.unwrap().into_inner();
    system.identity.revocations.user(ada, 2);
    assert_refused(&end_of(watching).await, "TOKEN_REVOKED");
    assert_refused(&end_of(streaming).await, "TOKEN_REVOKED");
    other.message().await.unwrap().unwrap();
    system.attendee().seat(&event).await;
    assert!(timeout(PATIENCE, other.message()).await.unwrap().unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_revoked_while_identity_is_away_is_refused_when_it_is_back() {
    let mut system = System::with(2, informed).await;
    let event = system.event(5).await;
    let (before, meanwhile) = (system.new_id(), system.new_id());
    let early = signed_in(&system, Role::Attendee, before, before, 1);
    let late = signed_in(&system, Role::Attendee, meanwhile, meanwhile, 1);
    system.identity.revocations.session(before);
    revoked_everywhere(&system, &early, &event).await;

    let (address, revocations) = (system.identity.address, Arc::clone(&system.identity.revocations));
    let idle = Identity::start(&system.mint).await;
    drop(std::mem::replace(&mut system.identity, idle));
    eventually(async || revocations.unheard()).await;
    revocations.session(meanwhile);
    // Nobody who is signed in waits for identity, and what was known is known.
    good_everywhere(&system, &late, &event).await;
    system.attendee().seat(&event).await;
    refused(early.get_event(&event).await, "TOKEN_REVOKED");

    let mut bound = TcpListener::bind(address).await;
    eventually(async || {
        if bound.is_err() {
            bound = TcpListener::bind(address).await;
        }
        bound.is_ok()
    })
    .await;
    system.identity = Identity::start_with(bound.unwrap(), &system.mint, revocations);
    revoked_everywhere(&system, &late, &event).await;
    refused(early.get_event(&event).await, "TOKEN_REVOKED");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_ends_in_good_order_or_falls_silent_is_opened_again() {
    let system = System::with(1, informed).await;
    let identity = &system.identity.revocations;
    eventually(async || identity.opened() == 1).await;
    let failure = |code, why| Failure::new(code, "identity.rowlock", why, "over");
    // One that is silent for too long, on a busy machine, is opened anew as well.
    let opened_after = async |end| {
        let before = identity.opened();
        identity.end_streams(end);
        eventually(async || identity.opened() > before).await;
    };
    opened_after(failure(Code::Unavailable, reason::SHUTTING_DOWN).into()).await;
    opened_after(Status::internal("broken")).await;
    let issued = || identity.issued.load(Ordering::SeqCst);
    assert_eq!(issued(), 1, "a token is used as long as it is good");
    // Its token is good no longer, whatever the clock says here: it gets another one.
    for (tokens, why) in [(2, reason::TOKEN_EXPIRED), (3, reason::TOKEN_REVOKED)] {
        opened_after(failure(Code::Unauthenticated, why).into()).await;
        assert_eq!(issued(), tokens);
    }
    let before = identity.opened();
    identity.silent.store(true, Ordering::SeqCst);
    eventually(async || identity.opened() > before).await;
    identity.silent.store(false, Ordering::SeqCst);
    let (event, ada) = (system.event(1).await, system.new_id());
    identity.session(ada);
    revoked_everywhere(&system, &signed_in(&system, Role::Attendee, ada, ada, 1), &event).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_revocations_are_not_known_for_too_long_it_goes_on_and_says_so() {
    let system = System::with(1, impatient).await;
    let (event, replica) = (system.event(5).await, &system.replicas[0]);
    readiness_says(replica, " 200", "\"revocations\":\"ready\"").await;
    system.identity.revocations.silent.store(true, Ordering::SeqCst);
    readiness_says(replica, " 200", "ready, but revocations are not known").await;
    system.attendee().seat(&event).await;
    system.identity.revocations.silent.store(false, Ordering::SeqCst);
    readiness_says(replica, " 200", "\"revocations\":\"ready\"").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_revocations_are_not_known_for_too_long_it_refuses_if_it_is_told_to() {
    let system = System::with(1, strict).await;
    let (event, replica) = (system.event(5).await, &system.replicas[0]);
    let ada = system.attendee();
    let watch = pb::WatchEventRequest { event_id: event.event_id.clone() };
    let watching = ada.events().watch_event(watch).await.unwrap().into_inner();
    let bob = system.new_id();
    system.identity.revocations.session(bob);
    let bob = signed_in(&system, Role::Attendee, bob, bob, 1);
    revoked_everywhere(&system, &bob, &event).await;
    system.identity.revocations.silent.store(true, Ordering::SeqCst);
    readiness_says(replica, " 503", "revocations are not known").await;
    refused(ada.register(&event).await, "IDENTITY_UNAVAILABLE");
    refused(bob.register(&event).await, "TOKEN_REVOKED");
    assert_refused(&end_of(watching).await, "IDENTITY_UNAVAILABLE");
    system.identity.revocations.silent.store(false, Ordering::SeqCst);
    readiness_says(replica, " 200", "\"revocations\":\"ready\"").await;
    ada.seat(&event).await;
    system.assert_consistent(&event).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_replica_takes_no_calls_before_it_knows_what_is_revoked() {
    let mut system = System::with_replicas(0).await;
    system.identity.revocations.silent.store(true, Ordering::SeqCst);
    system.add_replica(informed).await;
    system.add_replica(strict).await;
    for replica in &system.replicas {
        readiness_says(replica, " 503", "\"identity_keys\":\"ready\",\"revocations\":\"").await;
        let (head, body) = get(replica.http, "/readyz").await;
        assert!(head.contains(" 503") && !body.contains("\"revocations\":\"ready\""), "{body}");
    }
    let nobody = system.organizer().at(&system.replicas[1]);
    refused(nobody.create(draft(1)).await, "IDENTITY_UNAVAILABLE");
    system.identity.revocations.silent.store(false, Ordering::SeqCst);
    for replica in &system.replicas {
        replica.ready().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_service_account_or_with_a_wrong_secret_it_serves_and_says_so() {
    let mut system = System::with_replicas(1).await;
    let event = system.event(5).await;
    readiness_says(&system.replicas[0], " 200", "ready, but no service account is given").await;
    system
        .add_replica(|config| {
            impatient(config);
            let account = config.tokens.revocations.account.as_mut().unwrap();
            account.client_secret = Secret::new("not the secret of booking");
        })
        .await;
    readiness_says(&system.replicas[1], " 200", "ready, but revocations are not known").await;
    good_everywhere(&system, &system.attendee(), &event).await;
    assert_eq!(system.identity.revocations.opened(), 0);
}
