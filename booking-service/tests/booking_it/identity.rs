//! identity-service as far as booking-service needs it: an AuthService that publishes the keys of a test's mint.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rowlock_proto::identity::v1 as pb;
use rowlock_proto::identity::v1::auth_service_server::{AuthService, AuthServiceServer};
use service_core::test_support::TokenMint;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::Server;
use tonic::{Request, Response, Status};

/// A server that ends when this is dropped.
pub(crate) struct Identity {
    pub(crate) address: SocketAddr,
    /// How often its keys were asked for.
    pub(crate) fetches: Arc<AtomicUsize>,
    _end: DropGuard,
}

impl Identity {
    /// Publishes the keys of `mint`.
    pub(crate) async fn start(mint: &TokenMint) -> Self {
        Self::start_on(TcpListener::bind("127.0.0.1:0").await.unwrap(), mint)
    }

    /// Whoever has connected already is served from now on.
    pub(crate) fn start_on(listener: TcpListener, mint: &TokenMint) -> Self {
        let address = listener.local_addr().unwrap();
        let end = CancellationToken::new();
        let ended = end.clone().cancelled_owned();
        let fetches = Arc::new(AtomicUsize::new(0));
        let service = AuthServiceServer::new(Keys { jwks: mint.jwks_json(), fetches: Arc::clone(&fetches) });
        let connections = TcpListenerStream::new(listener);
        tokio::spawn(Server::builder().add_service(service).serve_with_incoming_shutdown(connections, ended));
        Self { address, fetches, _end: end.drop_guard() }
    }
}

struct Keys {
    jwks: String,
    fetches: Arc<AtomicUsize>,
}

type Reply<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl AuthService for Keys {
    async fn get_jwks(&self, _: Request<pb::GetJwksRequest>) -> Reply<pb::GetJwksResponse> {
        self.fetches.fetch_add(1, Ordering::SeqCst);
        Ok(Response::new(pb::GetJwksResponse { jwks_json: self.jwks.clone() }))
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

    async fn issue_service_token(
        &self,
        _: Request<pb::IssueServiceTokenRequest>,
    ) -> Reply<pb::IssueServiceTokenResponse> {
        Err(Status::unimplemented("not needed"))
    }

    async fn introspect_token(
        &self,
        _: Request<pb::IntrospectTokenRequest>,
    ) -> Reply<pb::IntrospectTokenResponse> {
        Err(Status::unimplemented("not needed"))
    }
}
