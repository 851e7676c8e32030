//! The service as `serve` starts it: replicas on ports of their own over one database, and people who call them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use booking_service::MIGRATOR;
use booking_service::cli::{Cli, Command};
use booking_service::config::ServeConfig;
use booking_service::serve::{Sources, serve};
use clap::Parser;
use rowlock_proto::booking::v1::Event;
use service_core::auth::Role;
use service_core::clock::{Clock, SystemClock};
use service_core::ids::{IdSource, UuidV7};
use service_core::server::Listeners;
use service_core::test_support::{TEST_AUDIENCE, TEST_ISSUER, TestCluster, TestDatabase, TokenMint};
use sqlx::PgPool;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use uuid::Uuid;

use crate::caller::Caller;
use crate::identity::Identity;

/// Longer than anything in these tests takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Replicas over one database.
pub(crate) struct System {
    pub(crate) database: TestDatabase,
    /// For looking behind the service's back.
    pub(crate) pool: PgPool,
    pub(crate) replicas: Vec<Replica>,
    pub(crate) mint: TokenMint,
    pub(crate) identity: Identity,
    pub(crate) ids: UuidV7,
    next: AtomicUsize,
}

/// One replica.
pub(crate) struct Replica {
    pub(crate) channel: Channel,
    pub(crate) grpc: SocketAddr,
    pub(crate) http: SocketAddr,
    pub(crate) stop: CancellationToken,
    pub(crate) task: JoinHandle<anyhow::Result<()>>,
}

impl System {
    pub(crate) async fn start() -> Self {
        Self::with_replicas(1).await
    }

    pub(crate) async fn with_replicas(count: usize) -> Self {
        Self::with(count, |_| {}).await
    }

    pub(crate) async fn with(count: usize, edit: impl Fn(&mut ServeConfig)) -> Self {
        Self::over(TestCluster::database("booking", &MIGRATOR).await, count, edit).await
    }

    /// On this database.
    pub(crate) async fn over(database: TestDatabase, count: usize, edit: impl Fn(&mut ServeConfig)) -> Self {
        let mint = TokenMint::new();
        let identity = Identity::start(&mint).await;
        let mut system = Self {
            pool: database.pool(4),
            database,
            replicas: Vec::new(),
            mint,
            identity,
            ids: UuidV7::new(Arc::new(SystemClock)),
            next: AtomicUsize::new(0),
        };
        for _ in 0..count {
            system.add_replica(&edit).await;
        }
        for replica in &system.replicas {
            replica.ready().await;
        }
        system
    }

    /// Does not wait until it is ready.
    pub(crate) async fn add_replica(&mut self, edit: impl Fn(&mut ServeConfig)) {
        self.add_replica_with(edit, Arc::new(UuidV7::new(Arc::new(SystemClock)))).await;
    }

    /// Does not wait until it is ready.
    pub(crate) async fn add_replica_with(&mut self, edit: impl Fn(&mut ServeConfig), ids: Arc<dyn IdSource>) {
        let mut config = config(&self.database.url, self.identity.address);
        edit(&mut config);
        let listeners = Listeners::bind(&config.server).await.unwrap();
        let (grpc, http) = (listeners.grpc.local_addr().unwrap(), listeners.http.local_addr().unwrap());
        let sources = Sources { clock: Arc::new(SystemClock), ids };
        let stop = CancellationToken::new();
        let task = tokio::spawn(Box::pin(serve(config, &MIGRATOR, listeners, sources, stop.clone())));
        self.replicas.push(Replica { channel: connect(grpc), grpc, http, stop, task });
    }

    /// Somebody new, at the replicas in turn.
    pub(crate) fn caller(&self, role: Role) -> Caller {
        let replica = &self.replicas[self.next.fetch_add(1, Ordering::Relaxed) % self.replicas.len()];
        self.caller_with_id(role, self.new_id()).at(replica)
    }

    pub(crate) fn caller_with_id(&self, role: Role, id: Uuid) -> Caller {
        Caller::new(id, &self.mint.token(id, role), self.replicas[0].channel.clone())
    }

    pub(crate) fn attendee(&self) -> Caller {
        self.caller(Role::Attendee)
    }

    /// That many people, spread over the replicas.
    pub(crate) fn attendees(&self, count: usize) -> Vec<Caller> {
        (0..count).map(|_| self.attendee()).collect()
    }

    pub(crate) fn organizer(&self) -> Caller {
        self.caller(Role::Organizer)
    }

    pub(crate) fn admin(&self) -> Caller {
        self.caller(Role::Admin)
    }

    pub(crate) fn service(&self) -> Caller {
        self.caller(Role::Service)
    }

    /// An id that nobody has.
    pub(crate) fn new_id(&self) -> Uuid {
        self.ids.new_id()
    }

    /// A published event of somebody's with so many seats.
    pub(crate) async fn event(&self, capacity: i32) -> Event {
        self.organizer().publish_new(crate::acts::draft(capacity)).await
    }

    /// Ends the replicas as SIGTERM does, and waits for their end.
    pub(crate) async fn stop(&mut self) {
        for replica in &self.replicas {
            replica.stop.cancel();
        }
        for replica in self.replicas.drain(..) {
            tokio::time::timeout(PATIENCE, replica.task).await.expect("it ends").unwrap().unwrap();
        }
    }
}

impl Drop for System {
    fn drop(&mut self) {
        for replica in &self.replicas {
            replica.stop.cancel();
        }
    }
}

impl Replica {
    /// A connection of its own.
    pub(crate) fn connect(&self) -> Channel {
        connect(self.grpc)
    }

    /// Waits until it says that it serves.
    pub(crate) async fn ready(&self) {
        let mut health = HealthClient::new(self.channel.clone());
        let watch = async {
            let mut watch = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
            while watch.message().await.unwrap().unwrap().status != 1 {}
        };
        tokio::time::timeout(PATIENCE, watch).await.expect("the replica becomes ready");
    }
}

fn connect(address: SocketAddr) -> Channel {
    Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy()
}

/// What `serve` makes of these few options, on free ports of this machine.
fn config(database_url: &str, identity: SocketAddr) -> ServeConfig {
    let identity = format!("http://{identity}");
    let options = ["booking-service", "serve", "--grpc-addr", "127.0.0.1:0", "--http-addr", "127.0.0.1:0"];
    let given = ["--database-url", database_url, "--identity-addr", &identity, "--log-filter", "off"];
    let tokens = ["--token-issuer", TEST_ISSUER, "--token-audience", TEST_AUDIENCE];
    // One person does more in a race than a person would.
    let limits = ["--register-rate", "off", "--call-rate", "off"];
    let options = options.iter().chain(&given).chain(&tokens).chain(&limits);
    let Command::Serve(args) = Cli::try_parse_from(options).unwrap().command else { panic!("not serve") };
    args.check().unwrap()
}

/// Runs the calls at the same time, each in a task of its own, and gives the answers in order.
pub(crate) async fn at_once<T: Send + 'static>(
    calls: impl IntoIterator<Item: Future<Output = T> + Send + 'static>,
) -> Vec<T> {
    let tasks: Vec<_> = calls.into_iter().map(tokio::spawn).collect();
    let mut answers = Vec::with_capacity(tasks.len());
    for task in tasks {
        answers.push(tokio::time::timeout(PATIENCE, task).await.expect("every call is answered").unwrap());
    }
    answers
}

/// Waits until what is asked for comes true.
pub(crate) async fn eventually(mut holds: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("it comes true");
}

/// The present, to the microsecond as the service keeps times.
pub(crate) fn now() -> time::OffsetDateTime {
    let now = SystemClock.now();
    now.replace_microsecond(now.microsecond()).unwrap()
}

/// `GET path` over a connection of its own: the head and the body of the answer.
pub(crate) async fn get(address: SocketAddr, path: &str) -> (String, String) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}
