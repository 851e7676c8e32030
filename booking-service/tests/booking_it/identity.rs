//! identity-service as far as booking-service needs it: the keys of a test's mint, tokens of a service account, and
//! revocations as the test has it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rowlock_proto::identity::v1 as pb;
use rowlock_proto::identity::v1::auth_service_server::{AuthService, AuthServiceServer};
use rowlock_proto::identity::v1::revocation_service_server::{RevocationService, RevocationServiceServer};
use rowlock_proto::identity::v1::watch_revocations_response::Update;
use service_core::auth::Role;
use service_core::clock::{Clock, SystemClock};
use service_core::test_support::TokenMint;
use tokio::net::TcpListener;
use tokio::sync::{broadcast, mpsc};
use tokio::time::interval;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

/// A server that ends when this is dropped.
pub(crate) struct Identity {
    pub(crate) address: SocketAddr,
    /// How often its keys were asked for.
    #[allow(dead_code, reason = "the benchmarks, which share this file, do not count")]
    pub(crate) fetches: Arc<AtomicUsize>,
    pub(crate) revocations: Arc<Revocations>,
    _end: DropGuard,
}

impl Identity {
    /// Publishes the keys of `mint`.
    pub(crate) async fn start(mint: &TokenMint) -> Self {
        Self::start_on(TcpListener::bind("127.0.0.1:0").await.unwrap(), mint)
    }

    /// Whoever has connected already is served from now on.
    pub(crate) fn start_on(listener: TcpListener, mint: &TokenMint) -> Self {
        Self::start_with(listener, mint, Arc::default())
    }

    /// The same as one that went away, with what was revoked meanwhile.
    pub(crate) fn start_with(listener: TcpListener, mint: &TokenMint, revocations: Arc<Revocations>) -> Self {
        let address = listener.local_addr().unwrap();
        let end = CancellationToken::new();
        let ended = end.clone().cancelled_owned();
        let fetches = Arc::new(AtomicUsize::new(0));
        let routes = routes(mint, &fetches, &revocations, &end);
        let connections = TcpListenerStream::new(listener);
        tokio::spawn(Server::builder().add_routes(routes).serve_with_incoming_shutdown(connections, ended));
        Self { address, fetches, revocations, _end: end.drop_guard() }
    }
}

/// What it serves, on whatever server.
pub(crate) fn routes(
    mint: &TokenMint,
    fetches: &Arc<AtomicUsize>,
    revocations: &Arc<Revocations>,
    end: &CancellationToken,
) -> Routes {
    let token = mint.token(SERVICE_ACCOUNT, Role::Service);
    let issued = Arc::clone(&revocations.issued);
    let keys = Keys { jwks_json: mint.jwks_json(), token, issued, fetches: Arc::clone(fetches) };
    let streams = Streams { revocations: Arc::clone(revocations), end: end.clone() };
    Routes::new(AuthServiceServer::new(keys)).add_service(RevocationServiceServer::new(streams))
}

/// Who asks for revocations, and the secret that proves it.
const SERVICE_ACCOUNT: uuid::Uuid = uuid::Uuid::from_u128(0x5e1);
pub(crate) const CLIENT_SECRET: &str = "the secret of booking";

/// What is revoked, and how it is told. Outlives the server, as a database would.
pub(crate) struct Revocations {
    all: Mutex<Vec<pb::Revocation>>,
    news: broadcast::Sender<pb::Revocation>,
    /// Ends every stream with this status.
    ends: broadcast::Sender<Status>,
    /// Nothing is told on any stream.
    pub(crate) silent: AtomicBool,
    /// How many streams were opened.
    pub(crate) opened: AtomicUsize,
    /// How many service tokens were issued.
    pub(crate) issued: Arc<AtomicUsize>,
}

impl Default for Revocations {
    fn default() -> Self {
        Self {
            all: Mutex::default(),
            news: broadcast::Sender::new(64),
            ends: broadcast::Sender::new(4),
            silent: AtomicBool::new(false),
            opened: AtomicUsize::new(0),
            issued: Arc::default(),
        }
    }
}

impl Revocations {
    pub(crate) fn session(&self, session_id: uuid::Uuid) {
        self.revoke(pb::revocation::Target::SessionId(session_id.to_string()));
    }

    pub(crate) fn user(&self, user_id: uuid::Uuid, minimum_session_version: i64) {
        let user_id = user_id.to_string();
        self.revoke(pb::revocation::Target::User(pb::UserRevocation { user_id, minimum_session_version }));
    }

    fn revoke(&self, target: pb::revocation::Target) {
        let now = SystemClock.now().unix_timestamp();
        let time = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
        let (revoke_time, expire_time) = (time(now), time(now + 3_660));
        let revocation = pb::Revocation { target: Some(target), revoke_time, expire_time };
        self.all.lock().unwrap().push(revocation.clone());
        let _ = self.news.send(revocation);
    }

    pub(crate) fn end_streams(&self, status: Status) {
        self.ends.send(status).unwrap();
    }

    /// Whether nobody has a stream.
    pub(crate) fn unheard(&self) -> bool {
        self.news.receiver_count() == 0
    }

    pub(crate) fn opened(&self) -> usize {
        self.opened.load(Ordering::SeqCst)
    }
}

struct Streams {
    revocations: Arc<Revocations>,
    end: CancellationToken,
}

#[tonic::async_trait]
impl RevocationService for Streams {
    type WatchRevocationsStream = ReceiverStream<Result<pb::WatchRevocationsResponse, Status>>;

    async fn watch_revocations(
        &self,
        request: Request<pb::WatchRevocationsRequest>,
    ) -> Reply<Self::WatchRevocationsStream> {
        assert!(request.metadata().contains_key("authorization"));
        let (revocations, end) = (self.revocations.clone(), self.end.clone());
        let (mut news, mut ends) = (revocations.news.subscribe(), revocations.ends.subscribe());
        let (messages, stream) = mpsc::channel(64);
        tokio::spawn(async move {
            let say = async |update| {
                if !revocations.silent.load(Ordering::SeqCst) {
                    let _ = messages.send(Ok(pb::WatchRevocationsResponse { update: Some(update) })).await;
                }
            };
            // In two parts: what is revoked, and that this is all.
            let all = revocations.all.lock().unwrap().clone();
            let part = pb::RevocationSnapshot { revocations: all, ..Default::default() };
            say(Update::Snapshot(part)).await;
            say(Update::Snapshot(pb::RevocationSnapshot { complete: true, ..Default::default() })).await;
            // Counted when everything that came before is in its snapshot.
            revocations.opened.fetch_add(1, Ordering::SeqCst);
            let mut heartbeats = interval(Duration::from_millis(200));
            let status = loop {
                tokio::select! {
                    Ok(revocation) = news.recv() => say(Update::Revocation(revocation)).await,
                    _ = heartbeats.tick() => say(Update::Heartbeat(pb::RevocationHeartbeat::default())).await,
                    Ok(status) = ends.recv() => break status,
                    () = messages.closed() => return,
                    () = end.cancelled() => break Status::unavailable("gone"),
                }
            };
            let _ = messages.send(Err(status)).await;
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

struct Keys {
    jwks_json: String,
    token: String,
    issued: Arc<AtomicUsize>,
    fetches: Arc<AtomicUsize>,
}

type Reply<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl AuthService for Keys {
    async fn get_jwks(&self, _: Request<pb::GetJwksRequest>) -> Reply<pb::GetJwksResponse> {
        self.fetches.fetch_add(1, Ordering::SeqCst);
        Ok(Response::new(pb::GetJwksResponse { jwks_json: self.jwks_json.clone() }))
    }

    async fn sign_up(&self, _: Request<pb::SignUpRequest>) -> Reply<pb::SignUpResponse> {
        Err(Status::unimplemented("not needed"))
    }

    async fn sign_in(&self, _: Request<pb::SignInRequest>) -> Reply<pb::SignInResponse> {
        Err(Status::unimplemented("not needed"))
    }

    async fn refresh_tokens(&self, _: Request<pb::RefreshTokensRequest>) -> Reply<pb::RefreshTokensResponse> {
        Err(Status::unimplemented("not needed"))
    }

    async fn sign_out(&self, _: Request<pb::SignOutRequest>) -> Reply<pb::SignOutResponse> {
        Err(Status::unimplemented("not needed"))
    }

    async fn reset_password(&self, _: Request<pb::ResetPasswordRequest>) -> Reply<pb::ResetPasswordResponse> {
        Err(Status::unimplemented("not needed"))
    }

    async fn issue_service_token(
        &self,
        request: Request<pb::IssueServiceTokenRequest>,
    ) -> Reply<pb::IssueServiceTokenResponse> {
        if request.into_inner().client_secret != CLIENT_SECRET {
            return Err(Status::unauthenticated("wrong"));
        }
        self.issued.fetch_add(1, Ordering::SeqCst);
        let expires = SystemClock.now().unix_timestamp() + 300;
        Ok(Response::new(pb::IssueServiceTokenResponse {
            access_token: self.token.clone(),
            access_token_expire_time: Some(prost_types::Timestamp { seconds: expires, nanos: 0 }),
        }))
    }

    async fn introspect_token(
        &self,
        _: Request<pb::IntrospectTokenRequest>,
    ) -> Reply<pb::IntrospectTokenResponse> {
        Err(Status::unimplemented("not needed"))
    }
}
