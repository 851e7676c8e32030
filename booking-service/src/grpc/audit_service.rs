//! `AuditService`: the change log as an audit trail.

use rowlock_proto::booking::v1 as pb;
use rowlock_proto::booking::v1::audit_service_server::AuditService;
use tonic::{Request, Response, Status};

use super::CallError;

pub(super) struct Audits;

#[tonic::async_trait]
impl AuditService for Audits {
    async fn list_audit_entries(
        &self,
        _request: Request<pb::ListAuditEntriesRequest>,
    ) -> Result<Response<pb::ListAuditEntriesResponse>, Status> {
        Err(CallError::Unimplemented { method: "ListAuditEntries" }.into())
    }
}
