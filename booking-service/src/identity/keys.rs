//! The keys that tokens are verified with.

use std::error::Error;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rowlock_proto::identity::v1::GetJwksRequest;
use rowlock_proto::identity::v1::auth_service_client::AuthServiceClient;
use service_core::token::JwksSource;
use service_core::trace::TracedChannel;
use service_core::upstream::Upstream;

/// identity-service as the publisher of keys.
pub struct Keys(AuthServiceClient<TracedChannel>);

impl Keys {
    /// Those of identity-service at `upstream`, which need not be there yet.
    pub fn at(upstream: &Upstream) -> Self {
        Self(AuthServiceClient::new(upstream.traced_channel()))
    }
}

impl JwksSource for Keys {
    fn fetch(&self) -> BoxFuture<'_, Result<String, Box<dyn Error + Send + Sync>>> {
        let mut client = self.0.clone();
        async move { Ok(client.get_jwks(GetJwksRequest {}).await?.into_inner().jwks_json) }.boxed()
    }
}
