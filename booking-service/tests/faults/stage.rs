//! A PostgreSQL that can be broken, real replicas, and those who call them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use booking_service::MIGRATOR;
use rowlock_proto::booking::v1 as pb;
use service_core::auth::Role;
use service_core::test_support::{Serving, TestDatabase, TestServer, TokenMint};
use service_core::token::Claims;
use sqlx::PgPool;
use tonic::transport::{Channel, Endpoint};
use uuid::Uuid;

use crate::acts::{ask, draft, offering_draft, party_draft};
use crate::caller::Caller;
use crate::child::serve_on;
use crate::identity::Identity;
use crate::load::Crowd;
use crate::system::{eventually, get};

/// How much more than usual is done: `ROWLOCK_TEST_SCALE`, for the long form.
pub(crate) fn scale() -> u32 {
    std::env::var("ROWLOCK_TEST_SCALE").map_or(1, |scale| scale.parse().expect("a number"))
}

/// Makes of a command what a test needs it to be.
type Edit = Box<dyn Fn(usize, &mut Command) + Send + Sync>;

pub(crate) struct Stage {
    pub(crate) server: TestServer,
    pub(crate) database: TestDatabase,
    pub(crate) pool: PgPool,
    pub(crate) mint: Arc<TokenMint>,
    pub(crate) replicas: Vec<Replica>,
    pub(crate) identity: Identity,
    /// Where replicas listen.
    pub(crate) host: IpAddr,
    /// What the replicas connect to, unless it is the database itself.
    pub(crate) database_url: String,
    edit: Edit,
}

/// One replica, at addresses that stay when it is started again.
pub(crate) struct Replica {
    pub(crate) grpc: SocketAddr,
    pub(crate) http: SocketAddr,
    serving: Option<Serving>,
}

impl Stage {
    pub(crate) async fn with_replicas(count: usize) -> Self {
        let mut stage = Self::empty(TestServer::start(&[])).await;
        stage.add_replicas(count).await;
        stage
    }

    pub(crate) async fn empty(server: TestServer) -> Self {
        Self::at(server, IpAddr::V4(Ipv4Addr::LOCALHOST)).await
    }

    /// The same at another address of this machine: replicas in a network of their own see this one.
    pub(crate) async fn at(server: TestServer, host: IpAddr) -> Self {
        let listener = tokio::net::TcpListener::bind((host, 0)).await.unwrap();
        let mint = Arc::new(TokenMint::new());
        let database = server.database("booking", &MIGRATOR).await;
        Self {
            pool: database.pool(4),
            database_url: database.url.clone(),
            identity: Identity::start_on(listener, &mint),
            server,
            database,
            mint,
            replicas: Vec::new(),
            host: IpAddr::V4(Ipv4Addr::LOCALHOST),
            edit: Box::new(|_, _| {}),
        }
    }

    /// Replicas that start from now on are started like this; each is told its number.
    pub(crate) fn started_with(&mut self, edit: impl Fn(usize, &mut Command) + Send + Sync + 'static) {
        self.edit = Box::new(edit);
    }

    /// Replicas that start from now on reach the database here.
    pub(crate) fn through(&mut self, address: SocketAddr) {
        self.database_url = self.database.url_through(address);
    }

    pub(crate) async fn add_replicas(&mut self, count: usize) {
        for _ in 0..count {
            let [grpc, http] =
                [free_address(), free_address()].map(|address| SocketAddr::new(self.host, address.port()));
            self.replicas.push(Replica { grpc, http, serving: None });
            self.start(self.replicas.len() - 1);
        }
        self.ready().await;
    }

    /// Starts a replica that does not run, and does not wait until it is ready.
    pub(crate) fn start(&mut self, number: usize) {
        let replica = &self.replicas[number];
        let mut command = serve_on(replica.grpc, replica.http, &self.database_url, self.identity.address);
        command.args(["--register-rate", "off"]).env("ROWLOCK_CALL_RATE", "off");
        (self.edit)(number, &mut command);
        self.replicas[number].serving = Some(Serving::start(command));
    }

    /// Sends a signal and waits for the end. Gives the exit code, if there is one.
    pub(crate) fn stop(&mut self, number: usize, signal: &str) -> Option<i32> {
        // Its log is searched for secrets.
        self.replicas[number].serving.take().unwrap().stop(signal).0.code()
    }

    /// What runs on another server from now on: what looks behind the service's back has to follow.
    pub(crate) async fn moved_to(&mut self, server: TestServer) {
        self.database.url = self.database.url_through(SocketAddr::from(([127, 0, 0, 1], server.port())));
        self.server = server;
        self.pool = self.database.pool(4);
    }

    /// The id of a replica's process.
    pub(crate) fn process(&self, number: usize) -> u32 {
        self.replicas[number].serving.as_ref().unwrap().pid()
    }

    /// Waits until all replicas that run are ready.
    pub(crate) async fn ready(&self) {
        for replica in self.replicas.iter().filter(|replica| replica.serving.is_some()) {
            eventually(async || {
                tokio::net::TcpStream::connect(replica.http).await.is_ok()
                    && get(replica.http, "/readyz").await.0.contains(" 200")
            })
            .await;
        }
    }

    /// Ends all replicas as SIGTERM does.
    pub(crate) fn end(&mut self) {
        for number in 0..self.replicas.len() {
            if self.replicas[number].serving.is_some() {
                assert_eq!(self.stop(number, "-TERM"), Some(0), "replica {number} ends in good order");
            }
        }
    }

    /// A connection of its own to each replica.
    pub(crate) fn ways(&self) -> Vec<Channel> {
        self.replicas.iter().map(|replica| way_to(replica.grpc)).collect()
    }

    pub(crate) fn caller(&self, role: Role, way: Channel) -> Caller {
        let id = Uuid::from_u128(rand::random());
        Caller::new(id, &long_token(&self.mint, id, role), way)
    }

    /// Events of every kind: rare seats and many, queues that promote, offer, skip, and wait for whole parties.
    pub(crate) async fn events(&self) -> Vec<pb::Event> {
        let organizer = self.caller(Role::Organizer, way_to(self.replicas[0].grpc));
        let days = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
        let skipping = pb::QueueDiscipline::SkipAhead.into();
        let mut events = Vec::new();
        for event in [
            draft(50),
            draft(500),
            draft(100_000),
            party_draft(150, 4),
            pb::Event { queue_discipline: skipping, ..party_draft(150, 4) },
            pb::Event { offer_ttl: days(86_400), ..offering_draft(100) },
        ] {
            events.push(organizer.publish_new(event).await);
        }
        events
    }

    /// A crowd that comes by all ways, and leaves room for others on this machine.
    pub(crate) async fn crowd(&self, front: Vec<Channel>) -> Crowd {
        Crowd::of(self.events().await, front, Arc::clone(&self.mint))
    }

    /// A metric of all replicas that run, summed over them and over the labels that have `label` in them, as `code="OK"`.
    /// `None` if no replica shows it.
    pub(crate) async fn metric(&self, name: &str, label: &str) -> Option<f64> {
        let mut sum = None;
        for replica in self.replicas.iter().filter(|replica| replica.serving.is_some()) {
            let page = get(replica.http, "/metrics").await.1;
            for line in page.lines() {
                let Some((series, value)) = line.rsplit_once(' ') else { continue };
                let (of, labels) = series.split_once('{').unwrap_or((series, ""));
                if of == name && labels.contains(label) {
                    sum = Some(sum.unwrap_or_default() + value.parse::<f64>().unwrap());
                }
            }
        }
        sum
    }

    /// The same of a counter, which is shown from the first time on.
    pub(crate) async fn count(&self, name: &str, label: &str) -> f64 {
        self.metric(name, label).await.unwrap_or_default()
    }

    /// Batches that were tried again because of the database, and not of somebody else at their events.
    pub(crate) async fn retries(&self) -> f64 {
        let mut retries = self.count("booking_batch_retries_total", "").await;
        for code in ["55P03", "overtaken", "outdated"] {
            retries -= self.count("booking_batch_retries_total", &format!("code=\"{code}\"")).await;
        }
        retries
    }
}

/// A seat for somebody new, as a backend asks for it.
pub(crate) fn ask_for_somebody(event: &pb::Event) -> pb::RegisterRequest {
    pb::RegisterRequest { user_id: Uuid::from_u128(rand::random()).to_string(), ..ask(event) }
}

/// What 99 of 100 did not exceed.
pub(crate) fn p99(took: &mut [Duration]) -> Duration {
    took.sort_unstable();
    took[(took.len() * 99).div_ceil(100) - 1]
}

/// A token that is good for longer than any fault lasts, and by clocks that go wrong.
pub(crate) fn long_token(mint: &TokenMint, user: Uuid, role: Role) -> String {
    let claims = |claims: &mut Claims| {
        claims.iat -= 900;
        claims.nbf -= 900;
        claims.exp += 900;
    };
    mint.token_with(user, role, claims, |_| {})
}

pub(crate) fn way_to(address: SocketAddr) -> Channel {
    Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy()
}

/// Free a moment ago, and below the ports that this machine gives to connections and to whoever asks for any: nobody takes it
/// while its server is down but one who draws the same.
pub(crate) fn free_address() -> SocketAddr {
    let drawn = || SocketAddr::from((Ipv4Addr::LOCALHOST, rand::random_range(10_000..32_000)));
    std::iter::repeat_with(drawn).find(|address| std::net::TcpListener::bind(address).is_ok()).unwrap()
}
