//! What every row of the table is measured with.

use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use rowlock_proto::booking::v1 as pb;
use rowlock_proto::booking::v1::event_service_client::EventServiceClient;
use service_core::auth::Role;
use service_core::test_support::{TestCluster, TokenMint};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use uuid::Uuid;

use crate::baselines::Baselines;
use crate::empty::EmptyServer;
use crate::identity::Identity;
use crate::load::{Call, FIRST_START, Pace, Plan, Tally, new_id};
use crate::row::Row;
use crate::server::System;
use crate::usage::Usage;

/// Tokens of backends, each of which many clients can use.
const BACKENDS: usize = 100;
/// Connections of a load generator to all replicas together, unless a row is about connections.
pub(crate) const CONNECTIONS: usize = 4;
/// Longer than a full run.
const TOKEN_LIFETIME_SECONDS: i64 = 6 * 3600;

/// The tools, and how thorough to be.
pub(crate) struct Bench {
    pub(crate) cluster: TestCluster,
    pub(crate) baselines: Baselines,
    pub(crate) identity: Identity,
    pub(crate) empty: EmptyServer,
    pub(crate) mint: TokenMint,
    pub(crate) backends: Vec<String>,
    pub(crate) rounds: usize,
    /// How long one thing is measured in a round.
    pub(crate) time: Duration,
    pub(crate) quick: bool,
    pub(crate) profile: bool,
}

impl Bench {
    pub(crate) async fn prepare(
        rounds: usize,
        time: Duration,
        quick: bool,
        profile: bool,
    ) -> anyhow::Result<Self> {
        let cluster = crate::server::cluster(profile);
        let baselines = Baselines::prepare(&cluster).await?;
        let mint = TokenMint::new();
        let identity = Identity::start(&mint).await;
        let empty = EmptyServer::start(&mint).await?;
        let backends = (0..BACKENDS).map(|_| token(&mint, Role::Service, new_id())).collect();
        Ok(Self { cluster, baselines, identity, empty, mint, backends, rounds, time, quick, profile })
    }

    /// `full`, or so much less of it that a quick run stays quick.
    pub(crate) fn size(&self, full: usize, quick: usize) -> usize {
        if self.quick { quick } else { full }
    }

    pub(crate) async fn system(&self, replicas: usize) -> anyhow::Result<(System, Host)> {
        let system = System::start(&self.cluster, self.identity.address, replicas).await?;
        let host = Host::of(&system, &self.mint)?;
        Ok((system, host))
    }

    /// Tokens of people, each with one of their own.
    pub(crate) fn attendees(&self, count: usize) -> Vec<String> {
        (0..count).map(|_| token(&self.mint, Role::Attendee, new_id())).collect()
    }

    /// The usual plan: backends call for their users over a few connections.
    pub(crate) fn plan(&self, system: &System, call: Call, clients: usize) -> Plan {
        Plan {
            replicas: system.urls(),
            connections: CONNECTIONS.min(clients.max(system.replicas.len())),
            tokens: self.backends.clone(),
            call,
            pace: Pace::Closed { clients },
            calls: None,
            warm_up: self.time.mul_f64(0.2),
            measured: self.time,
            watches: Vec::new(),
        }
    }

    /// Notes what the database spent its time on, if that was asked for.
    pub(crate) async fn note_statements(&self, system: &System, row: &mut Row) -> anyhow::Result<()> {
        if self.profile {
            row.notes.extend(system.statements().await?);
        }
        Ok(())
    }

    /// Carries a plan out in a process of its own. Tells also what services and database used meanwhile, warm-up included.
    pub(crate) async fn load(&self, system: &System, plan: &Plan) -> anyhow::Result<(Tally, Usage)> {
        system.settle().await?;
        let before = system.usage().await?;
        let tally = send(plan).await?;
        Ok((tally, system.usage().await? - before))
    }
}

/// Carries a plan out in a process of its own.
pub(crate) async fn send(plan: &Plan) -> anyhow::Result<Tally> {
    let mut child = Command::new(std::env::current_exe()?)
        .arg(crate::LOAD)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut stdin = child.stdin.take().context("standard input is piped")?;
    stdin.write_all(&serde_json::to_vec(plan)?).await?;
    drop(stdin);
    let output = child.wait_with_output().await?;
    anyhow::ensure!(output.status.success(), "the load generator failed");
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn token(mint: &TokenMint, role: Role, id: Uuid) -> String {
    mint.token_with(id, role, |claims| claims.exp = claims.iat + TOKEN_LIFETIME_SECONDS, |_| {})
}

/// Somebody who may make events and look into their books.
pub(crate) struct Host {
    events: EventServiceClient<Channel>,
    bearer: MetadataValue<Ascii>,
}

impl Host {
    fn of(system: &System, mint: &TokenMint) -> anyhow::Result<Self> {
        let bearer = format!("Bearer {}", token(mint, Role::Admin, new_id())).parse()?;
        Ok(Self { events: EventServiceClient::new(system.channel()?), bearer })
    }

    fn request<M>(&self, message: M) -> tonic::Request<M> {
        let mut request = tonic::Request::new(message);
        request.metadata_mut().insert("authorization", self.bearer.clone());
        request.set_timeout(Duration::from_secs(300));
        request
    }

    /// A published event with so many seats.
    pub(crate) async fn event(&self, capacity: usize) -> anyhow::Result<String> {
        let time = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
        let event = pb::Event {
            title: "The rush".to_owned(),
            location: "Main hall".to_owned(),
            start_time: time(FIRST_START),
            end_time: time(FIRST_START + 7200),
            capacity: i32::try_from(capacity)?,
            ..pb::Event::default()
        };
        let create = self.request(pb::CreateEventRequest { event: Some(event), ..Default::default() });
        let mut events = self.events.clone();
        let created = events.create_event(create).await?.into_inner().event.context("no event was made")?;
        let publish = pb::PublishEventRequest { event_id: created.event_id.clone(), ..Default::default() };
        events.publish_event(self.request(publish)).await?;
        Ok(created.event_id)
    }

    pub(crate) async fn events(&self, count: usize, capacity: usize) -> anyhow::Result<Vec<String>> {
        use futures_util::{StreamExt, TryStreamExt, stream::iter};
        iter(0..count).map(|_| self.event(capacity)).buffer_unordered(64).try_collect().await
    }

    pub(crate) async fn verify(&self, event_id: &str) -> anyhow::Result<pb::VerifyEventResponse> {
        let request = self.request(pb::VerifyEventRequest { event_id: event_id.to_owned() });
        Ok(self.events.clone().verify_event(request).await?.into_inner())
    }
}
