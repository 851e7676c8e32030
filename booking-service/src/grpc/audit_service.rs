//! `AuditService`: the change log as an audit trail.

use std::sync::Arc;

use prost::Message;
use rowlock_proto::booking::v1 as pb;
use rowlock_proto::booking::v1::audit_service_server::AuditService;
use service_core::page::PageBinding;
use service_core::validation::Violations;
use tonic::{Request, Response, Status};

use super::{Booking, CallError, actor, convert, list_request};
use crate::domain::authority;
use crate::domain::change::ChangeAction;
use crate::domain::command::{Actor, ActorRole};
use crate::domain::refusal::Refusal;
use crate::store::changes::{self, AuditFilter, Placed};

pub(super) struct Audits(pub(super) Arc<Booking>);

#[tonic::async_trait]
impl AuditService for Audits {
    async fn list_audit_entries(
        &self,
        request: Request<pb::ListAuditEntriesRequest>,
    ) -> Result<Response<pb::ListAuditEntriesResponse>, Status> {
        let actor = actor(&request)?;
        Ok(Response::new(self.list(actor, request.into_inner()).await?))
    }
}

impl Audits {
    async fn list(
        &self,
        actor: Actor,
        request: pb::ListAuditEntriesRequest,
    ) -> Result<pb::ListAuditEntriesResponse, CallError> {
        let mut violations = Violations::default();
        let size = violations.page_size(request.page_size);
        let filter = AuditFilter {
            event_id: violations.optional_uuid("event_id", &request.event_id),
            actor_id: violations.optional_uuid("actor_id", &request.actor_id),
            actions: list_request::known(
                "actions",
                &request.actions,
                ChangeAction::ALL,
                |action| convert::change_action(action).into(),
                &mut violations,
            ),
            time_after: violations.time("change_time_after", request.change_time_after.as_ref()),
            time_before: violations.time("change_time_before", request.change_time_before.as_ref()),
        };
        if let (Some(after), Some(before)) = (filter.time_after, filter.time_before)
            && before <= after
        {
            violations.add("change_time_before", "must be after change_time_after");
        }
        violations.finish()?;
        match filter.event_id {
            Some(event_id) if actor.role != ActorRole::Admin => {
                let record = self.0.visible_event(actor, event_id).await?;
                authority::require_runs(actor, &record.event)?;
            }
            None if actor.role != ActorRole::Admin => {
                return Err(Refusal::RoleRequired { needed: "an organizer with event_id or an admin" }.into());
            }
            // Admins see the trail of deleted drafts too.
            Some(_) | None => {}
        }

        let arguments =
            pb::ListAuditEntriesRequest { page_size: 0, page_token: String::new(), ..request.clone() };
        let binding =
            PageBinding::new("ListAuditEntries", &[actor.id.as_bytes(), &arguments.encode_to_vec()]);
        let before = binding.decode(&request.page_token)?.as_deref().map(list_request::place).transpose()?;
        let pool = self.0.pool.clone();
        let page = async move {
            let read = |before, limit| changes::audit(&pool, &filter, before, limit);
            let (key, cursor) = (|row: &Placed| row.place, list_request::place_cursor);
            let entry = |row: Placed| convert::change(&row.change);
            list_request::page(before, size, &binding, read, key, cursor, entry).await
        };
        let (entries, next_page_token) = self.0.turns.page(page).await?;
        Ok(pb::ListAuditEntriesResponse { entries, next_page_token })
    }
}
