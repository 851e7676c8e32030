//! `ChangeService`: the change log as a feed for other backends.

use futures_util::stream::BoxStream;
use rowlock_proto::booking::v1 as pb;
use rowlock_proto::booking::v1::change_service_server::ChangeService;
use tonic::{Request, Response, Status};

use super::CallError;

pub(super) struct Changes;

#[tonic::async_trait]
impl ChangeService for Changes {
    type StreamChangesStream = BoxStream<'static, Result<pb::StreamChangesResponse, Status>>;

    async fn stream_changes(
        &self,
        _request: Request<pb::StreamChangesRequest>,
    ) -> Result<Response<Self::StreamChangesStream>, Status> {
        Err(CallError::Unimplemented { method: "StreamChanges" }.into())
    }
}
