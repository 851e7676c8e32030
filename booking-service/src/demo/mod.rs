//! `demo`: a guided look at a running system, as any client would do it: over gRPC, with real accounts.

mod accounts;
mod people;
mod screen;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rowlock_proto::booking::v1 as pb;
use rowlock_proto::booking::v1::event_service_client::EventServiceClient;
use service_core::clock::{Clock, SystemClock};
use service_core::config::ConfigErrors;
use service_core::ids::{IdSource, UuidV7};
use service_core::upstream::{Upstream, UpstreamOptions};
use service_core::validation::timestamp;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;

use crate::cli::DemoArgs;

use accounts::Account;
use people::Crowd;
use screen::Screen;

/// Connections to each replica: one HTTP/2 connection is served by one thread.
const CONNECTIONS: usize = 2;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Makes two accounts and two events, lets a crowd rush one of them over all replicas, and proves the result.
///
/// # Errors
/// If a service cannot be reached or says no, or if the result is not exactly what it has to be.
pub async fn run(args: DemoArgs) -> anyhow::Result<()> {
    let mut errors = ConfigErrors::default();
    let mut upstream = |name: &str, url: &str| {
        UpstreamOptions { url: url.to_owned(), ..UpstreamOptions::default() }.check(name, &mut errors)
    };
    let identity = upstream("--identity-addr (ROWLOCK_IDENTITY_ADDR)", &args.identity_addr);
    let replicas: Vec<Upstream> = args
        .booking_addrs
        .split(',')
        .map(|addr| upstream("--booking-addrs (ROWLOCK_BOOKING_ADDRS)", addr))
        .collect();
    let users = args.users.take_within("--users", 1..=100_000, &mut errors);
    let seats = args.seats.take_within("--seats", 1..=1_000_000, &mut errors);
    errors.finish()?;
    let (users, seats) = (users.unwrap_or_default(), seats.unwrap_or_default());

    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let ids: Arc<dyn IdSource> = Arc::new(UuidV7::new(Arc::clone(&clock)));
    let mut screen = Screen::standard();

    let identity = identity.connect().await.context("identity-service cannot be reached")?;
    let organizer = Account::organizer(&args.organizer_email, args.organizer_password);
    let attendee = Account::attendee(&args.attendee_email, args.attendee_password);
    let organizer = organizer.sign_in(&identity).await.context("the organizer cannot sign in")?;
    attendee.sign_in(&identity).await.context("the attendee cannot sign in")?;

    let mut channels = Vec::new();
    for replica in &replicas {
        for _ in 0..CONNECTIONS {
            let connected = replica.connect().await;
            channels.push(connected.with_context(|| format!("{} cannot be reached", replica.uri()))?);
        }
    }
    let channel = channels.first().context("no booking replica is named")?.clone();
    let host = Organizer { events: EventServiceClient::new(channel), token: organizer };
    let open = host.publish("Rowlock workshop: seats for everyone", 50, clock.as_ref()).await?;
    let rush = host.publish("Rowlock launch night: the rush", seats, clock.as_ref()).await?;

    screen.say(&format!(
        "{users} people race for {seats} seats of one event, over {} replica(s), all at once",
        replicas.len()
    ))?;
    let crowd = Crowd { users, event_id: rush.event_id.clone(), token: host.token.clone(), channels, ids };
    let tally = crowd.rush(&mut screen).await?;
    screen.tally(&tally)?;

    let proof = host.verify(&rush.event_id).await?;
    screen.proof(&rush.event_id, &proof)?;
    tally.check(seats)?;
    anyhow::ensure!(proof.consistent, "the event is not consistent: {:?}", proof.findings);

    screen.tour(
        &args.identity_addr,
        &args.booking_addrs,
        &open.event_id,
        &rush.event_id,
        args.state_file.as_deref(),
    )
}

/// A bearer token as metadata has it.
type Bearer = MetadataValue<Ascii>;

/// A request with the caller's token.
fn authorized<T>(message: T, token: &Bearer) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.metadata_mut().insert("authorization", token.clone());
    request
}

struct Organizer {
    events: EventServiceClient<Channel>,
    token: Bearer,
}

impl Organizer {
    async fn publish(&self, title: &str, seats: u32, clock: &dyn Clock) -> anyhow::Result<pb::Event> {
        let mut events = self.events.clone();
        let start = clock.now() + 7 * DAY;
        let event = pb::Event {
            title: title.to_owned(),
            description: "Made by `booking-service demo`.".to_owned(),
            location: "here".to_owned(),
            start_time: Some(timestamp(start)),
            end_time: Some(timestamp(start + DAY / 8)),
            capacity: i32::try_from(seats)?,
            max_seats_per_registration: Some(1),
            ..pb::Event::default()
        };
        let create = pb::CreateEventRequest { event: Some(event), ..Default::default() };
        let created = events.create_event(authorized(create, &self.token)).await?.into_inner();
        let event_id = created.event.context("CreateEvent answered without an event")?.event_id;
        let publish = pb::PublishEventRequest { event_id, etag: String::new() };
        let published = events.publish_event(authorized(publish, &self.token)).await?.into_inner();
        published.event.context("PublishEvent answered without an event")
    }

    async fn verify(&self, event_id: &str) -> anyhow::Result<pb::VerifyEventResponse> {
        let request = pb::VerifyEventRequest { event_id: event_id.to_owned() };
        Ok(self.events.clone().verify_event(authorized(request, &self.token)).await?.into_inner())
    }
}
