//! ServiceAccountService: accounts for other backends.

use rowlock_proto::identity::v1::service_account_service_server::ServiceAccountService;
use rowlock_proto::identity::v1::{
    CreateServiceAccountRequest, CreateServiceAccountResponse, DeleteServiceAccountRequest,
    DeleteServiceAccountResponse, ListServiceAccountsRequest, ListServiceAccountsResponse,
    RotateServiceAccountSecretRequest, RotateServiceAccountSecretResponse,
};
use tonic::{Request, Response, Status};

use crate::domain::Error;

pub(super) struct ServiceAccountRpcs;

#[tonic::async_trait]
impl ServiceAccountService for ServiceAccountRpcs {
    async fn create_service_account(
        &self,
        _: Request<CreateServiceAccountRequest>,
    ) -> Result<Response<CreateServiceAccountResponse>, Status> {
        let method = "/rowlock.identity.v1.ServiceAccountService/CreateServiceAccount";
        Err(Error::MethodUnimplemented { method }.into())
    }

    async fn list_service_accounts(
        &self,
        _: Request<ListServiceAccountsRequest>,
    ) -> Result<Response<ListServiceAccountsResponse>, Status> {
        let method = "/rowlock.identity.v1.ServiceAccountService/ListServiceAccounts";
        Err(Error::MethodUnimplemented { method }.into())
    }

    async fn rotate_service_account_secret(
        &self,
        _: Request<RotateServiceAccountSecretRequest>,
    ) -> Result<Response<RotateServiceAccountSecretResponse>, Status> {
        let method = "/rowlock.identity.v1.ServiceAccountService/RotateServiceAccountSecret";
        Err(Error::MethodUnimplemented { method }.into())
    }

    async fn delete_service_account(
        &self,
        _: Request<DeleteServiceAccountRequest>,
    ) -> Result<Response<DeleteServiceAccountResponse>, Status> {
        let method = "/rowlock.identity.v1.ServiceAccountService/DeleteServiceAccount";
        Err(Error::MethodUnimplemented { method }.into())
    }
}
