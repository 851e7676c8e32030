//! The load generator: a process of its own that is given a plan, makes the calls, and tells what it got.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use hdrhistogram::Histogram;
use rowlock_proto::booking::v1 as pb;
use rowlock_proto::booking::v1::event_service_client::EventServiceClient;
use rowlock_proto::booking::v1::registration_service_client::RegistrationServiceClient;
use rowlock_proto::booking::v1::waitlist_service_client::WaitlistServiceClient;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;
use uuid::Uuid;

use crate::empty::WHO;

/// What is counted together in [`Tally::timeline`].
pub(crate) const TICK: Duration = Duration::from_millis(50);
/// Longer than any answer that is worth waiting for.
const DEADLINE: Duration = Duration::from_secs(20);
/// Answers are written down in so many places, so that threads do not wait for each other.
const SLOTS: usize = 8;

/// What to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// `http://host:port` of each replica; connections go to them in turn.
    pub(crate) replicas: Vec<String>,
    pub(crate) connections: usize,
    /// Access tokens; the n-th client has the n-th, and so on in turn.
    pub(crate) tokens: Vec<String>,
    pub(crate) call: Call,
    pub(crate) pace: Pace,
    /// The end comes with this many calls, if not with the time.
    pub(crate) calls: Option<u64>,
    /// Calls that are made, but are not in the figures.
    pub(crate) warm_up: Duration,
    pub(crate) measured: Duration,
    /// Streams of WatchEvent that are open meanwhile, in hundreds for each connection.
    pub(crate) watches: Vec<String>,
}

/// The call that is made again and again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Call {
    /// Register somebody new each time, by a random one of these events.
    Register {
        events: Vec<String>,
    },
    /// Each token's holder registers once.
    RegisterOneself {
        event: String,
    },
    /// Somebody new joins the queue.
    Join {
        event: String,
    },
    /// Each of these once.
    Cancel {
        registrations: Vec<String>,
    },
    GetEvent {
        events: Vec<String>,
    },
    /// A page of the default size, from a random hour of the coming years.
    ListEvents {
        hours: i64,
    },
    /// GetWaitlistEntry, which includes the rank.
    Rank {
        entries: Vec<String>,
    },
    /// See [`crate::empty`].
    Empty,
}

/// When calls are made.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Pace {
    /// So many clients, each with one call at a time.
    Closed { clients: usize },
    /// So many a second, whether or not earlier ones have their answer; latency counts from when a call was due.
    Open { per_second: f64 },
}

/// What came of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Tally {
    /// All answers, the warm-up's too: `seat`, `queue`, `ok` or a status code.
    pub(crate) answers: BTreeMap<String, u64>,
    /// One of the statuses.
    pub(crate) example: Option<String>,
    /// Answers a second in the measured time.
    pub(crate) rate: f64,
    /// Of the measured time, in milliseconds.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
    /// The distribution: percentiles and their milliseconds.
    pub(crate) curve: Vec<(f64, f64)>,
    /// Seats given in each [`TICK`] from the beginning.
    pub(crate) timeline: Vec<u64>,
    /// Messages that the watches got.
    pub(crate) watched: u64,
}

impl Tally {
    /// How many answers of this kind there were.
    pub(crate) fn count(&self, answer: &str) -> u64 {
        self.answers.get(answer).copied().unwrap_or_default()
    }

    /// How many calls there were.
    pub(crate) fn calls(&self) -> u64 {
        self.answers.values().sum()
    }
}

/// The process: plan from standard input, tally to standard output.
pub(crate) fn main() -> anyhow::Result<()> {
    let mut plan = String::new();
    std::io::stdin().read_to_string(&mut plan)?;
    let plan: Plan = serde_json::from_str(&plan).context("the plan cannot be read")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let tally = runtime.block_on(run(plan))?;
    let mut out = std::io::stdout();
    serde_json::to_writer(&mut out, &tally)?;
    out.flush()?;
    Ok(())
}

async fn run(plan: Plan) -> anyhow::Result<Tally> {
    let watched = watch(&plan).await?;
    let mut channels = Vec::with_capacity(plan.connections);
    for n in 0..plan.connections.max(1) {
        channels.push(connect(in_turn::<String>(&plan.replicas, n)).await?);
    }
    let bearers = plan.tokens.iter().map(|token| bearer(token)).collect::<anyhow::Result<_>>()?;
    let began = Instant::now();
    // Of a given number of calls, each one counts.
    let warm_up = if plan.calls.is_some() { Duration::ZERO } else { plan.warm_up };
    let from = began + warm_up;
    let crowd = Arc::new(Crowd {
        channels,
        bearers,
        until: from + plan.measured,
        pages: Book::pages(from, plan.measured)?,
        began,
        made: AtomicU64::new(0),
        calls: plan.calls.unwrap_or(u64::MAX),
        call: plan.call,
    });
    match plan.pace {
        Pace::Closed { clients } => closed(&crowd, clients).await?,
        Pace::Open { per_second } => open(&crowd, per_second).await?,
    }
    let mut tally = Book::close(&crowd.pages, began.elapsed().saturating_sub(warm_up).min(plan.measured));
    tally.watched = watched.load(Ordering::Relaxed);
    Ok(tally)
}

async fn connect(replica: &str) -> anyhow::Result<Channel> {
    let endpoint = Endpoint::from_shared(replica.to_owned())?.tcp_nodelay(true);
    endpoint.connect().await.with_context(|| format!("{replica} cannot be reached"))
}

fn bearer(token: &str) -> anyhow::Result<MetadataValue<Ascii>> {
    format!("Bearer {token}").parse().context("a token is not ASCII")
}

/// Opens the watches and goes on reading them.
async fn watch(plan: &Plan) -> anyhow::Result<Arc<AtomicU64>> {
    let seen = Arc::new(AtomicU64::new(0));
    for (n, events) in plan.watches.chunks(100).enumerate() {
        let channel = connect(in_turn::<String>(&plan.replicas, n)).await?;
        for event_id in events {
            let mut request = Request::new(pb::WatchEventRequest { event_id: event_id.clone() });
            let token = plan.tokens.first().context("watches need a token")?;
            request.metadata_mut().insert("authorization", bearer(token)?);
            let mut stream =
                EventServiceClient::new(channel.clone()).watch_event(request).await?.into_inner();
            let seen = Arc::clone(&seen);
            tokio::spawn(async move {
                while let Ok(Some(_)) = stream.message().await {
                    seen.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    }
    Ok(seen)
}

async fn closed(crowd: &Arc<Crowd>, clients: usize) -> anyhow::Result<()> {
    let mut people = JoinSet::new();
    for client in 0..clients {
        let crowd = Arc::clone(crowd);
        people.spawn(async move {
            while let Some(n) = crowd.next() {
                let asked = Instant::now();
                let answer = crowd.make(client, n).await;
                crowd.write_down(client, asked, answer);
            }
        });
    }
    while let Some(ended) = people.join_next().await {
        ended?;
    }
    Ok(())
}

async fn open(crowd: &Arc<Crowd>, per_second: f64) -> anyhow::Result<()> {
    let mut people = JoinSet::new();
    let mut due = crowd.began;
    let mut client = 0;
    // All that are due, however late they can be sent.
    while due < crowd.until
        && let Some(n) = crowd.count_one()
    {
        sleep_until(due).await;
        let (crowd, asked) = (Arc::clone(crowd), due);
        people.spawn(async move {
            let answer = crowd.make(client, n).await;
            crowd.write_down(client, asked, answer);
        });
        client += 1;
        due += Duration::from_secs_f64(1.0 / per_second);
        while people.try_join_next().transpose()?.is_some() {}
    }
    while let Some(ended) = people.join_next().await {
        ended?;
    }
    Ok(())
}

/// Everybody who calls.
struct Crowd {
    channels: Vec<Channel>,
    bearers: Vec<MetadataValue<Ascii>>,
    call: Call,
    began: Instant,
    until: Instant,
    made: AtomicU64,
    calls: u64,
    pages: Vec<Mutex<Book>>,
}

type Answer = Result<&'static str, Status>;

impl Crowd {
    /// The number of the next call, if there is one.
    fn next(&self) -> Option<usize> {
        if Instant::now() >= self.until { None } else { self.count_one() }
    }

    fn count_one(&self) -> Option<usize> {
        let n = self.made.fetch_add(1, Ordering::Relaxed);
        usize::try_from(n).ok().filter(|_| n < self.calls)
    }

    /// Makes the n-th call of all, as this client.
    async fn make(&self, client: usize, n: usize) -> Answer {
        let channel = in_turn(&self.channels, client).clone();
        match &self.call {
            Call::Register { events } => {
                let user_id = random_id();
                let asked = pb::RegisterRequest { user_id, ..register(any::<String>(events)) };
                let request = self.request(client, asked.clone());
                let told = RegistrationServiceClient::new(channel).register(request).await?.into_inner();
                seat(told, &asked.event_id, Some(&asked.user_id))
            }
            Call::RegisterOneself { event } => {
                let request = self.request(n, register(event));
                let told = RegistrationServiceClient::new(channel).register(request).await?.into_inner();
                seat(told, event, None)
            }
            Call::Join { event } => {
                let (event_id, user_id, request_id) = (event.clone(), random_id(), random_id());
                let asked = pb::JoinWaitlistRequest { event_id, user_id, request_id, ..Default::default() };
                let request = self.request(client, asked.clone());
                let told = WaitlistServiceClient::new(channel).join_waitlist(request).await?.into_inner();
                let entry = told.entry.unwrap_or_default();
                if_about("queue", (entry.event_id, entry.user_id) == (asked.event_id, asked.user_id))
            }
            Call::Cancel { registrations } => {
                let registration_id = in_turn(registrations, n).clone();
                let asked = pb::CancelRegistrationRequest { registration_id: registration_id.clone() };
                let request = self.request(client, asked);
                let told = RegistrationServiceClient::new(channel).cancel_registration(request).await?;
                let registration = told.into_inner().registration.unwrap_or_default();
                if_about("ok", registration.registration_id == registration_id)
            }
            Call::GetEvent { events } => {
                let event_id = any::<String>(events);
                let request = self.request(client, pb::GetEventRequest { event_id: event_id.clone() });
                let told = EventServiceClient::new(channel).get_event(request).await?.into_inner();
                if_about("ok", told.event.is_some_and(|event| event.event_id == *event_id))
            }
            Call::ListEvents { hours } => {
                let hour = rand::random_range(0..*hours);
                let seconds = FIRST_START + hour * 3600;
                let start_time_after = Some(prost_types::Timestamp { seconds, nanos: 0 });
                let request = pb::ListEventsRequest { start_time_after, ..Default::default() };
                let told =
                    EventServiceClient::new(channel).list_events(self.request(client, request)).await?;
                let events = told.into_inner().events;
                let is_asked =
                    |event: &pb::Event| event.start_time.is_some_and(|start| start.seconds >= seconds);
                if_about("ok", !events.is_empty() && events.iter().all(is_asked))
            }
            Call::Rank { entries } => {
                let entry_id = any::<String>(entries);
                let request =
                    self.request(client, pb::GetWaitlistEntryRequest { entry_id: entry_id.clone() });
                let told =
                    WaitlistServiceClient::new(channel).get_waitlist_entry(request).await?.into_inner();
                if_about("ok", told.entry.is_some_and(|entry| entry.entry_id == *entry_id))
            }
            Call::Empty => {
                let mut grpc = Grpc::new(channel);
                grpc.ready().await.map_err(|error| Status::unknown(error.to_string()))?;
                let (path, codec) = (PathAndQuery::from_static(WHO), ProstCodec::<(), String>::default());
                grpc.unary(self.request(client, ()), path, codec).await.map(|_| "ok")
            }
        }
    }

    fn request<M>(&self, caller: usize, message: M) -> Request<M> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", in_turn(&self.bearers, caller).clone());
        request.set_timeout(DEADLINE);
        request
    }

    fn write_down(&self, client: usize, asked: Instant, answer: Answer) {
        let now = Instant::now();
        let mut book = in_turn(&self.pages, client).lock().unwrap_or_else(PoisonError::into_inner);
        book.write(self.began, asked, now, answer);
    }
}

/// 2035-01-01: when the first of the many events of a benchmark begins.
pub(crate) const FIRST_START: i64 = 2_051_222_400;

fn register(event: &str) -> pb::RegisterRequest {
    pb::RegisterRequest { event_id: event.to_owned(), request_id: random_id(), ..Default::default() }
}

/// The answer to somebody who asked for a seat at this event, for this user if not for themselves.
fn seat(told: pb::RegisterResponse, event_id: &str, user_id: Option<&str>) -> Answer {
    let (answer, event, user) = match told.outcome {
        Some(pb::register_response::Outcome::Registration(made)) => ("seat", made.event_id, made.user_id),
        Some(pb::register_response::Outcome::WaitlistEntry(made)) => ("queue", made.event_id, made.user_id),
        None => return Err(Status::internal("Register answered without an outcome")),
    };
    if_about(answer, event == event_id && user_id.is_none_or(|user_id| user == user_id))
}

/// The answer, if it is about what was asked. Batches and shared look-ups must not mix up their callers.
fn if_about(answer: &'static str, is_about: bool) -> Answer {
    if is_about { Ok(answer) } else { Err(Status::data_loss("an answer to somebody else")) }
}

fn random_id() -> String {
    uuid::Builder::from_random_bytes(rand::random()).into_uuid().to_string()
}

fn any<T>(choices: &[T]) -> &T {
    in_turn(choices, rand::random_range(0..choices.len()))
}

/// The n-th of these, beginning again at the end. Not for what is empty.
#[expect(
    clippy::indexing_slicing,
    reason = "the index is below the length, and an empty plan is a bug of the benchmark"
)]
fn in_turn<T>(choices: &[T], n: usize) -> &T {
    &choices[n % choices.len()]
}

/// Answers as they come.
struct Book {
    from: Instant,
    until: Instant,
    answers: BTreeMap<&'static str, u64>,
    example: Option<String>,
    measured: u64,
    /// In microseconds.
    latencies: Histogram<u64>,
    timeline: Vec<u64>,
}

impl Book {
    fn pages(from: Instant, measured: Duration) -> anyhow::Result<Vec<Mutex<Self>>> {
        let page = || {
            Ok(Mutex::new(Self {
                from,
                until: from + measured,
                answers: BTreeMap::new(),
                example: None,
                measured: 0,
                latencies: Histogram::new_with_bounds(1, 120_000_000, 3)?,
                timeline: Vec::new(),
            }))
        };
        (0..SLOTS).map(|_| page()).collect()
    }

    fn write(&mut self, began: Instant, asked: Instant, now: Instant, answer: Answer) {
        let answer = answer.unwrap_or_else(|status| {
            self.example.get_or_insert_with(|| format!("{:?}: {}", status.code(), status.message()));
            name(status.code())
        });
        *self.answers.entry(answer).or_default() += 1;
        if (self.from..self.until).contains(&now) {
            self.measured += 1;
        }
        // By when it was asked: a call that outlives the measured time is the slowest of it, not absent from it.
        if (self.from..self.until).contains(&asked) {
            let micros = u64::try_from((now - asked).as_micros()).unwrap_or(u64::MAX);
            self.latencies.saturating_record(micros.max(1));
        }
        if answer == "seat" {
            let tick = usize::try_from((now - began).as_millis() / TICK.as_millis()).unwrap_or_default();
            if self.timeline.len() <= tick {
                self.timeline.resize(tick + 1, 0);
            }
            if let Some(count) = self.timeline.get_mut(tick) {
                *count += 1;
            }
        }
    }

    fn close(pages: &[Mutex<Self>], measured: Duration) -> Tally {
        let mut tally = Tally::default();
        let mut latencies: Option<Histogram<u64>> = None;
        let mut count = 0;
        for page in pages {
            let page = page.lock().unwrap_or_else(PoisonError::into_inner);
            for (answer, count) in &page.answers {
                *tally.answers.entry((*answer).to_owned()).or_default() += count;
            }
            tally.example = tally.example.or_else(|| page.example.clone());
            count += page.measured;
            tally.timeline.resize(tally.timeline.len().max(page.timeline.len()), 0);
            for (sum, seats) in tally.timeline.iter_mut().zip(&page.timeline) {
                *sum += seats;
            }
            match &mut latencies {
                Some(all) => {
                    let _ = all.add(&page.latencies);
                }
                None => latencies = Some(page.latencies.clone()),
            }
        }
        tally.rate = count as f64 / measured.as_secs_f64().max(f64::EPSILON);
        if let Some(latencies) = latencies {
            let millis = |percentile: f64| latencies.value_at_percentile(percentile) as f64 / 1e3;
            (tally.p50, tally.p99, tally.max) = (millis(50.0), millis(99.0), latencies.max() as f64 / 1e3);
            let percentiles =
                [1.0, 5.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 98.0, 99.0, 99.5, 99.9, 99.99, 100.0];
            tally.curve = percentiles.iter().map(|&percentile| (percentile, millis(percentile))).collect();
        }
        tally
    }
}

fn name(code: Code) -> &'static str {
    match code {
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::Unavailable => "UNAVAILABLE",
        _ => "OTHER",
    }
}

/// An id that nobody has.
pub(crate) fn new_id() -> Uuid {
    uuid::Builder::from_random_bytes(rand::random()).into_uuid()
}
