//! RevocationService: which tokens to refuse before they expire.

use rowlock_proto::identity::v1::revocation_service_server::RevocationService;
use rowlock_proto::identity::v1::{WatchRevocationsRequest, WatchRevocationsResponse};
use tonic::{Request, Response, Status};

use crate::domain::Error;

pub(super) struct RevocationRpcs;

#[tonic::async_trait]
impl RevocationService for RevocationRpcs {
    type WatchRevocationsStream = tokio_stream::Empty<Result<WatchRevocationsResponse, Status>>;

    async fn watch_revocations(
        &self,
        _: Request<WatchRevocationsRequest>,
    ) -> Result<Response<Self::WatchRevocationsStream>, Status> {
        let method = "/rowlock.identity.v1.RevocationService/WatchRevocations";
        Err(Error::MethodUnimplemented { method }.into())
    }
}
