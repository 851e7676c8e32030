//! A client of Rowlock: it sells the only seat of an event to 48 tries of one person, meets EVENT_FULL, queues, is
//! promoted, and reads it all again in the change log. It fails where an answer is not as the contract says.
#![expect(clippy::disallowed_methods, reason = "a client has no clock and no ids but its own")]
#![expect(clippy::print_stdout, reason = "it tells what it does")]

mod session;

use std::collections::HashSet;
use std::env;
use std::time::{Duration, SystemTime};

use anyhow::{Context, ensure};
use futures_util::future::try_join_all;
use rowlock_proto::booking::v1::change_service_client::ChangeServiceClient;
use rowlock_proto::booking::v1::event_service_client::EventServiceClient;
use rowlock_proto::booking::v1::register_response::Outcome;
use rowlock_proto::booking::v1::registration_service_client::RegistrationServiceClient;
use rowlock_proto::booking::v1::waitlist_service_client::WaitlistServiceClient;
use rowlock_proto::booking::v1::{
    CancelEventRequest, CancelRegistrationRequest, CreateEventRequest, Event, EventState,
    GetWaitlistEntryRequest, JoinWaitlistRequest, PublishEventRequest, RegisterRequest, StreamChangesRequest,
    WaitlistEntryState, WatchEventRequest, WatchEventResponse,
};
use rowlock_proto::identity::v1::auth_service_client::AuthServiceClient;
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};
use tonic_types::StatusExt;

use crate::session::{Retries, Session, connect, new_id};

/// How often the registration is sent at once: more often than the 20 times a moment that each of two replicas allows
/// one attendee, so that some are RATE_LIMITED and repeated as the service config says.
const TRIES: usize = 48;
const CHANGES: i64 = 9;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tokio::time::timeout(Duration::from_secs(60), story()).await?
}

async fn story() -> anyhow::Result<()> {
    let auth = AuthServiceClient::new(connect(&env::var("ROWLOCK_IDENTITY_ADDR")?)?);
    let booking = connect(&env::var("ROWLOCK_BOOKING_ADDRS")?)?;
    let mut events = EventServiceClient::new(booking.clone());
    let mut registrations = RegistrationServiceClient::new(booking.clone());
    let mut queue = WaitlistServiceClient::new(booking.clone());

    let mut organizer = sign_in(&auth, "ROWLOCK_ORGANIZER_EMAIL", "ROWLOCK_ORGANIZER_PASSWORD").await?;
    let mut ada = Session::newcomer(auth.clone(), "Ada").await?;
    let mut grace = Session::newcomer(auth.clone(), "Grace").await?;
    let first = grace.refresh_token.clone();
    grace.refresh().await?;
    ensure!(grace.refresh_token != first, "the refresh token has not changed");
    println!("signed in: an organizer, Ada and Grace, who has refreshed her tokens");

    let start = SystemTime::now() + Duration::from_secs(30 * 24 * 3600);
    let supper = Event {
        title: "Supper for one, from Rust".to_owned(),
        capacity: 1,
        start_time: Some(start.into()),
        end_time: Some((start + Duration::from_secs(4 * 3600)).into()),
        ..Event::default()
    };
    let request = CreateEventRequest { event: Some(supper), request_id: new_id() };
    let created = events.create_event(organizer.request(request).await?).await?.into_inner();
    let event_id = created.event.context("no event")?.event_id;
    let request = PublishEventRequest { event_id: event_id.clone(), ..Default::default() };
    let published = events.publish_event(organizer.request(request).await?).await?.into_inner();
    ensure!(published.event.context("no event")?.state() == EventState::Published, "not published");
    println!("published an event with one seat: {event_id}");

    let request = grace.request(WatchEventRequest { event_id: event_id.clone() }).await?;
    let mut watch = events.watch_event(request).await?.into_inner();
    let mut version = 0;
    see(&mut watch, &mut version, EventState::Published, 1, 0).await?;

    let registration_id = register(&registrations, &event_id, &mut ada).await?;
    println!("{TRIES} tries of one request made one registration: {registration_id}");
    see(&mut watch, &mut version, EventState::Published, 0, 0).await?;

    let request = RegisterRequest { event_id: event_id.clone(), request_id: new_id(), ..Default::default() };
    let refusal =
        registrations.register(grace.request(request).await?).await.err().context("one seat too many")?;
    ensure!(reason(&refusal).as_deref() == Some("EVENT_FULL"), refusal);
    let request =
        JoinWaitlistRequest { event_id: event_id.clone(), request_id: new_id(), ..Default::default() };
    let joined = queue.join_waitlist(grace.request(request).await?).await?.into_inner();
    let question = GetWaitlistEntryRequest { entry_id: joined.entry.context("no entry")?.entry_id };
    let waiting = queue.get_waitlist_entry(grace.request(question.clone()).await?).await?.into_inner();
    ensure!(waiting.entry.context("no entry")?.rank == 1, "not the next in the queue");
    println!("EVENT_FULL for Grace, who is next in the queue now");
    see(&mut watch, &mut version, EventState::Published, 0, 1).await?;

    let request = ada.request(CancelRegistrationRequest { registration_id }).await?;
    registrations.cancel_registration(request).await?;
    let promoted = queue.get_waitlist_entry(grace.request(question).await?).await?.into_inner();
    let entry = promoted.entry.context("no entry")?;
    ensure!(entry.state() == WaitlistEntryState::Promoted && !entry.registration_id.is_empty(), "{entry:?}");
    println!("Ada cancelled, and the same transaction gave Grace the seat");
    see(&mut watch, &mut version, EventState::Published, 0, 0).await?;

    let request = CancelEventRequest {
        event_id: event_id.clone(),
        reason: "the cook is ill".to_owned(),
        ..Default::default()
    };
    events.cancel_event(organizer.request(request).await?).await?;
    see(&mut watch, &mut version, EventState::Cancelled, 1, 0).await?;
    ensure!(watch.message().await?.is_none(), "the watch goes on");
    println!("the watch saw every step and ended with the event");

    let admin = sign_in(&auth, "ROWLOCK_ADMIN_EMAIL", "ROWLOCK_ADMIN_PASSWORD").await?;
    read_changes(ChangeServiceClient::new(booking), &event_id, admin).await?;
    println!("the change log has it all, read in two parts without a gap");
    Ok(())
}

async fn sign_in(auth: &AuthServiceClient<Channel>, email: &str, password: &str) -> anyhow::Result<Session> {
    Session::sign_in(auth.clone(), env::var(email)?, env::var(password)?).await
}

/// Sends one request many times at once, as a client would that doubts whether it was heard: whichever replica answers,
/// it is with the same registration.
async fn register(
    registrations: &RegistrationServiceClient<Channel>,
    event_id: &str,
    user: &mut Session,
) -> anyhow::Result<String> {
    let message =
        RegisterRequest { event_id: event_id.to_owned(), request_id: new_id(), ..Default::default() };
    let metadata = user.request(()).await?.metadata().clone();
    let retries = Retries::of("rowlock.booking.v1.RegistrationService").context("no retry policy")?;
    let calls = (0..TRIES).map(|_| {
        retries.call(|| {
            let mut client = registrations.clone();
            let mut request = Request::new(message.clone());
            *request.metadata_mut() = metadata.clone();
            request.set_timeout(Duration::from_secs(10));
            async move { client.register(request).await }
        })
    });
    let mut made = HashSet::new();
    for answer in try_join_all(calls).await? {
        match answer.into_inner().outcome {
            Some(Outcome::Registration(registration)) => made.insert(registration.registration_id),
            other => anyhow::bail!("not a registration: {other:?}"),
        };
    }
    ensure!(made.len() == 1, "several registrations: {made:?}");
    made.into_iter().next().context("no registration")
}

/// Reads the watch until it shows these numbers. What changes quickly is merged, so there may be less to see than has
/// happened, but versions only rise, from one call of this to the next too.
async fn see(
    watch: &mut Streaming<WatchEventResponse>,
    version: &mut i64,
    state: EventState,
    seats_remaining: i32,
    waitlist_size: i32,
) -> anyhow::Result<()> {
    loop {
        let seats = watch.message().await?.context("the watch has ended")?;
        ensure!(seats.version > *version, "a version that does not rise: {seats:?}");
        *version = seats.version;
        if (seats.state(), seats.seats_remaining, seats.waitlist_size)
            == (state, seats_remaining, waitlist_size)
        {
            return Ok(());
        }
    }
}

/// Reads three changes, breaks off, and goes on from the last resume token.
async fn read_changes(
    mut changes: ChangeServiceClient<Channel>,
    event_id: &str,
    mut user: Session,
) -> anyhow::Result<()> {
    let (mut resume_token, mut version) = (String::new(), 0);
    for most in [3, 100] {
        let request = StreamChangesRequest {
            event_id: event_id.to_owned(),
            resume_token: resume_token.clone(),
            ..StreamChangesRequest::default()
        };
        let mut stream = changes.stream_changes(user.request(request).await?).await?.into_inner();
        for _ in 0..most {
            let Some(answer) = stream.message().await? else { break };
            let change = answer.change.context("no change")?;
            version += 1;
            ensure!(change.version == version, "expected change {version}: {change:?}");
            resume_token = answer.resume_token;
            println!("  {version} {}", change.action().as_str_name());
        }
    }
    ensure!(version == CHANGES, "expected {CHANGES} changes, not {version}");
    Ok(())
}

/// The reason in the `google.rpc.ErrorInfo` of an error: what a program decides by. Its message is for people.
fn reason(status: &Status) -> Option<String> {
    Some(status.get_details_error_info()?.reason)
}
