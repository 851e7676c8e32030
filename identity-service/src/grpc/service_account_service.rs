//! ServiceAccountService: accounts for other backends.

use std::sync::Arc;

use rowlock_proto::identity::v1::service_account_service_server::ServiceAccountService;
use rowlock_proto::identity::v1::{
    CreateServiceAccountRequest, CreateServiceAccountResponse, DeleteServiceAccountRequest,
    DeleteServiceAccountResponse, ListServiceAccountsRequest, ListServiceAccountsResponse,
    RotateServiceAccountSecretRequest, RotateServiceAccountSecretResponse,
};
use service_core::auth::principal;
use service_core::page::PageBinding;
use tonic::{Request, Response, Status};

use super::convert;
use super::error::no_principal;
use super::page::Page;
use crate::accounts::Accounts;

pub(super) struct ServiceAccountRpcs {
    pub(super) accounts: Arc<Accounts>,
}

#[tonic::async_trait]
impl ServiceAccountService for ServiceAccountRpcs {
    async fn create_service_account(
        &self,
        request: Request<CreateServiceAccountRequest>,
    ) -> Result<Response<CreateServiceAccountResponse>, Status> {
        let caller = principal(&request).map_err(no_principal)?;
        let display_name = convert::new_service_account(request.get_ref())?;
        let (account, secret) = self.accounts.create_service_account(caller, display_name).await?;
        Ok(Response::new(CreateServiceAccountResponse {
            service_account: Some(convert::service_account(&account)),
            client_secret: secret.expose().to_owned(),
        }))
    }

    async fn list_service_accounts(
        &self,
        request: Request<ListServiceAccountsRequest>,
    ) -> Result<Response<ListServiceAccountsResponse>, Status> {
        let ListServiceAccountsRequest { page_size, page_token } = request.get_ref();
        let page = Page::read(PageBinding::new("ListServiceAccounts", &[]), *page_size, page_token)?;
        let found = self.accounts.service_accounts(page.after, page.limit()).await?;
        let (accounts, next_page_token) = page.cut(found, |account| account.id);
        let service_accounts = accounts.iter().map(convert::service_account).collect();
        Ok(Response::new(ListServiceAccountsResponse { service_accounts, next_page_token }))
    }

    async fn rotate_service_account_secret(
        &self,
        request: Request<RotateServiceAccountSecretRequest>,
    ) -> Result<Response<RotateServiceAccountSecretResponse>, Status> {
        let caller = principal(&request).map_err(no_principal)?;
        let (id, overlap) = convert::rotation(request.get_ref())?;
        let (account, secret) = self.accounts.rotate_secret(caller, id, overlap).await?;
        Ok(Response::new(RotateServiceAccountSecretResponse {
            service_account: Some(convert::service_account(&account)),
            client_secret: secret.expose().to_owned(),
        }))
    }

    async fn delete_service_account(
        &self,
        request: Request<DeleteServiceAccountRequest>,
    ) -> Result<Response<DeleteServiceAccountResponse>, Status> {
        let caller = principal(&request).map_err(no_principal)?;
        let id = convert::id("service_account_id", &request.get_ref().service_account_id)?;
        self.accounts.delete_service_account(caller, id).await?;
        Ok(Response::new(DeleteServiceAccountResponse {}))
    }
}
