//! UserService: users, their own and anyone's.

use std::sync::Arc;

use rowlock_proto::identity::v1::user_service_server::UserService;
use rowlock_proto::identity::v1::{
    BatchGetUsersRequest, BatchGetUsersResponse, ChangePasswordRequest, ChangePasswordResponse, GetMeRequest,
    GetMeResponse, GetUserRequest, GetUserResponse, ListMySessionsRequest, ListMySessionsResponse,
    ListUsersRequest, ListUsersResponse, RevokeMySessionRequest, RevokeMySessionResponse,
    RevokeUserSessionsRequest, RevokeUserSessionsResponse, UpdateMeRequest, UpdateMeResponse,
    UpdateUserRequest, UpdateUserResponse,
};
use service_core::auth::principal;
use tonic::{Request, Response, Status};

use super::convert;
use super::error::no_principal;
use crate::accounts::Accounts;
use crate::domain::Error;

pub(super) struct UserRpcs {
    pub(super) accounts: Arc<Accounts>,
}

#[tonic::async_trait]
impl UserService for UserRpcs {
    async fn get_me(&self, request: Request<GetMeRequest>) -> Result<Response<GetMeResponse>, Status> {
        let caller = principal(&request).map_err(no_principal)?;
        let user = self.accounts.me(caller).await?;
        Ok(Response::new(GetMeResponse { user: Some(convert::user(&user)) }))
    }

    async fn update_me(&self, _: Request<UpdateMeRequest>) -> Result<Response<UpdateMeResponse>, Status> {
        Err(Error::MethodUnimplemented { method: "/rowlock.identity.v1.UserService/UpdateMe" }.into())
    }

    async fn change_password(
        &self,
        _: Request<ChangePasswordRequest>,
    ) -> Result<Response<ChangePasswordResponse>, Status> {
        Err(Error::MethodUnimplemented { method: "/rowlock.identity.v1.UserService/ChangePassword" }.into())
    }

    async fn list_my_sessions(
        &self,
        _: Request<ListMySessionsRequest>,
    ) -> Result<Response<ListMySessionsResponse>, Status> {
        Err(Error::MethodUnimplemented { method: "/rowlock.identity.v1.UserService/ListMySessions" }.into())
    }

    async fn revoke_my_session(
        &self,
        _: Request<RevokeMySessionRequest>,
    ) -> Result<Response<RevokeMySessionResponse>, Status> {
        Err(Error::MethodUnimplemented { method: "/rowlock.identity.v1.UserService/RevokeMySession" }.into())
    }

    async fn get_user(&self, _: Request<GetUserRequest>) -> Result<Response<GetUserResponse>, Status> {
        Err(Error::MethodUnimplemented { method: "/rowlock.identity.v1.UserService/GetUser" }.into())
    }

    async fn list_users(&self, _: Request<ListUsersRequest>) -> Result<Response<ListUsersResponse>, Status> {
        Err(Error::MethodUnimplemented { method: "/rowlock.identity.v1.UserService/ListUsers" }.into())
    }

    async fn batch_get_users(
        &self,
        _: Request<BatchGetUsersRequest>,
    ) -> Result<Response<BatchGetUsersResponse>, Status> {
        Err(Error::MethodUnimplemented { method: "/rowlock.identity.v1.UserService/BatchGetUsers" }.into())
    }

    async fn update_user(
        &self,
        _: Request<UpdateUserRequest>,
    ) -> Result<Response<UpdateUserResponse>, Status> {
        Err(Error::MethodUnimplemented { method: "/rowlock.identity.v1.UserService/UpdateUser" }.into())
    }

    async fn revoke_user_sessions(
        &self,
        _: Request<RevokeUserSessionsRequest>,
    ) -> Result<Response<RevokeUserSessionsResponse>, Status> {
        Err(Error::MethodUnimplemented { method: "/rowlock.identity.v1.UserService/RevokeUserSessions" }
            .into())
    }
}
