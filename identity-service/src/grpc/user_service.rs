//! UserService: users, their own and anyone's.

use std::sync::Arc;

use prost::Message;
use rowlock_proto::identity::v1 as proto;
use rowlock_proto::identity::v1::user_service_server::UserService;
use rowlock_proto::identity::v1::{
    BatchGetUsersRequest, BatchGetUsersResponse, ChangePasswordRequest, ChangePasswordResponse,
    CreatePasswordResetRequest, CreatePasswordResetResponse, DeleteMeRequest, DeleteMeResponse,
    DeleteUserRequest, DeleteUserResponse, GetMeRequest, GetMeResponse, GetUserRequest, GetUserResponse,
    ListMySessionsRequest, ListMySessionsResponse, ListUsersRequest, ListUsersResponse,
    RevokeMySessionRequest, RevokeMySessionResponse, RevokeUserSessionsRequest, RevokeUserSessionsResponse,
    UpdateMeRequest, UpdateMeResponse, UpdateUserRequest, UpdateUserResponse,
};
use service_core::auth::principal;
use service_core::page::PageBinding;
use service_core::validation::{Violations, timestamp};
use tonic::{Request, Response, Status};

use super::error::no_principal;
use super::page::Page;
use super::user_update::user_update;
use super::{ClientAddress, convert};
use crate::accounts::Accounts;
use crate::domain::{Email, Error};
use crate::store::UserFilter;

/// The most users that one BatchGetUsers asks for.
const MAX_USER_IDS: usize = 1_000;

pub(super) struct UserRpcs {
    pub(super) accounts: Arc<Accounts>,
    pub(super) client_address: ClientAddress,
}

#[tonic::async_trait]
impl UserService for UserRpcs {
    async fn get_me(&self, request: Request<GetMeRequest>) -> Result<Response<GetMeResponse>, Status> {
        let caller = principal(&request).map_err(no_principal)?;
        let user = self.accounts.me(caller).await?;
        Ok(Response::new(GetMeResponse { user: Some(convert::user(&user)) }))
    }

    async fn update_me(
        &self,
        request: Request<UpdateMeRequest>,
    ) -> Result<Response<UpdateMeResponse>, Status> {
        let caller = principal(&request).map_err(no_principal)?;
        let mut violations = Violations::default();
        let user = required_user(&mut violations, request.get_ref().user.as_ref());
        let mask = request.get_ref().update_mask.as_ref();
        let update = user_update(&mut violations, &user, mask, &["display_name"]);
        violations.finish().map_err(Error::from)?;
        let user = self.accounts.update_me(caller, &update).await?;
        Ok(Response::new(UpdateMeResponse { user: Some(convert::user(&user)) }))
    }

    async fn change_password(
        &self,
        request: Request<ChangePasswordRequest>,
    ) -> Result<Response<ChangePasswordResponse>, Status> {
        let caller = principal(&request).map_err(no_principal)?;
        let me = self.accounts.me(caller).await?;
        let client = self.client_address.client(&request);
        let change = convert::change_password(request.get_ref(), &me.email, &client)?;
        let ended = self.accounts.change_password(caller, change).await?;
        Ok(Response::new(ChangePasswordResponse { revoked_sessions: convert::count(ended) }))
    }

    async fn delete_me(
        &self,
        request: Request<DeleteMeRequest>,
    ) -> Result<Response<DeleteMeResponse>, Status> {
        let caller = principal(&request).map_err(no_principal)?;
        let client = self.client_address.client(&request);
        let password = convert::delete_me(request.get_ref())?;
        self.accounts.delete_me(caller, password, client.address).await?;
        Ok(Response::new(DeleteMeResponse {}))
    }

    async fn list_my_sessions(
        &self,
        request: Request<ListMySessionsRequest>,
    ) -> Result<Response<ListMySessionsResponse>, Status> {
        let caller = principal(&request).map_err(no_principal)?;
        let ListMySessionsRequest { page_size, page_token } = request.get_ref();
        let page = Page::read(
            PageBinding::new("ListMySessions", &[caller.user_id.as_bytes()]),
            *page_size,
            page_token,
        )?;
        let found = self.accounts.my_sessions(caller, page.after, page.limit()).await?;
        let (sessions, next_page_token) = page.cut(found, |session| session.id);
        let sessions = sessions.iter().map(|session| convert::session(session, caller.session_id)).collect();
        Ok(Response::new(ListMySessionsResponse { sessions, next_page_token }))
    }

    async fn revoke_my_session(
        &self,
        request: Request<RevokeMySessionRequest>,
    ) -> Result<Response<RevokeMySessionResponse>, Status> {
        let caller = principal(&request).map_err(no_principal)?;
        let session_id = convert::id("session_id", &request.get_ref().session_id)?;
        self.accounts.revoke_my_session(caller, session_id).await?;
        Ok(Response::new(RevokeMySessionResponse {}))
    }

    async fn get_user(&self, request: Request<GetUserRequest>) -> Result<Response<GetUserResponse>, Status> {
        let user = self.accounts.user(convert::id("user_id", &request.get_ref().user_id)?).await?;
        Ok(Response::new(GetUserResponse { user: Some(convert::user(&user)) }))
    }

    async fn list_users(
        &self,
        request: Request<ListUsersRequest>,
    ) -> Result<Response<ListUsersResponse>, Status> {
        let mut arguments = request.into_inner();
        let (page_size, page_token) = (arguments.page_size, std::mem::take(&mut arguments.page_token));
        arguments.page_size = 0;
        let (filter, email) = user_filter(&arguments)?;
        let binding = PageBinding::new("ListUsers", &[&arguments.encode_to_vec()]);
        let page = Page::read(binding, page_size, &page_token)?;
        let found = self.accounts.list_users(&filter, email.as_ref(), page.after, page.limit()).await?;
        let (users, next_page_token) = page.cut(found, |user| user.id);
        Ok(Response::new(ListUsersResponse {
            users: users.iter().map(convert::user).collect(),
            next_page_token,
        }))
    }

    async fn batch_get_users(
        &self,
        request: Request<BatchGetUsersRequest>,
    ) -> Result<Response<BatchGetUsersResponse>, Status> {
        let mut violations = Violations::default();
        let ids = violations.uuids("user_ids", &request.get_ref().user_ids, MAX_USER_IDS);
        violations.finish().map_err(Error::from)?;
        let users = self.accounts.users(&ids).await?;
        Ok(Response::new(BatchGetUsersResponse { users: users.iter().map(convert::user).collect() }))
    }

    async fn update_user(
        &self,
        request: Request<UpdateUserRequest>,
    ) -> Result<Response<UpdateUserResponse>, Status> {
        let caller = principal(&request).map_err(no_principal)?;
        let mut violations = Violations::default();
        let user = required_user(&mut violations, request.get_ref().user.as_ref());
        let user_id = violations.uuid("user.user_id", &user.user_id);
        let mask = request.get_ref().update_mask.as_ref();
        let update = user_update(&mut violations, &user, mask, &["display_name", "role", "active"]);
        violations.finish().map_err(Error::from)?;
        let user = self.accounts.update_user(caller, user_id, &update).await?;
        Ok(Response::new(UpdateUserResponse { user: Some(convert::user(&user)) }))
    }

    async fn revoke_user_sessions(
        &self,
        request: Request<RevokeUserSessionsRequest>,
    ) -> Result<Response<RevokeUserSessionsResponse>, Status> {
        let caller = principal(&request).map_err(no_principal)?;
        let user_id = convert::id("user_id", &request.get_ref().user_id)?;
        let ended = self.accounts.revoke_user_sessions(caller, user_id).await?;
        Ok(Response::new(RevokeUserSessionsResponse { revoked_sessions: convert::count(ended) }))
    }

    async fn create_password_reset(
        &self,
        request: Request<CreatePasswordResetRequest>,
    ) -> Result<Response<CreatePasswordResetResponse>, Status> {
        let caller = principal(&request).map_err(no_principal)?;
        let user_id = convert::id("user_id", &request.get_ref().user_id)?;
        let (token, expire_time) = self.accounts.create_password_reset(caller, user_id).await?;
        Ok(Response::new(CreatePasswordResetResponse {
            reset_token: token.expose().to_owned(),
            expire_time: Some(timestamp(expire_time)),
        }))
    }

    async fn delete_user(
        &self,
        request: Request<DeleteUserRequest>,
    ) -> Result<Response<DeleteUserResponse>, Status> {
        let caller = principal(&request).map_err(no_principal)?;
        let user_id = convert::id("user_id", &request.get_ref().user_id)?;
        self.accounts.delete_user(caller, user_id).await?;
        Ok(Response::new(DeleteUserResponse {}))
    }
}

fn required_user(violations: &mut Violations, user: Option<&proto::User>) -> proto::User {
    if user.is_none() {
        violations.add("user", "is required");
    }
    user.cloned().unwrap_or_default()
}

fn user_filter(request: &ListUsersRequest) -> Result<(UserFilter, Option<Email>), Error> {
    let mut violations = Violations::default();
    let mut roles = Vec::new();
    for (index, value) in request.roles.iter().enumerate() {
        let field = format!("roles[{index}]");
        if *value == proto::Role::Unspecified as i32 {
            violations.add(&field, "must be a role");
        }
        roles.extend(
            convert::role_asked(&mut violations, &field, *value).filter(|role| !roles.contains(role)),
        );
    }
    let email = (!request.email.is_empty()).then(|| Email::read(&mut violations, "email", &request.email));
    violations.finish()?;
    Ok((UserFilter { roles, active: request.active }, email))
}
