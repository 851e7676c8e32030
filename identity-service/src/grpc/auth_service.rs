//! AuthService: signing up, signing in, and tokens.

use std::sync::Arc;

use rowlock_proto::identity::v1::auth_service_server::AuthService;
use rowlock_proto::identity::v1::{
    GetJwksRequest, GetJwksResponse, IntrospectTokenRequest, IntrospectTokenResponse,
    IssueServiceTokenRequest, IssueServiceTokenResponse, RefreshTokensRequest, RefreshTokensResponse,
    ResetPasswordRequest, ResetPasswordResponse, SignInRequest, SignInResponse, SignOutRequest,
    SignOutResponse, SignUpRequest, SignUpResponse,
};
use service_core::token::{TokenError, TokenVerifier};
use service_core::validation::timestamp;
use tonic::{Request, Response, Status};

use super::error::DOMAIN;
use super::{ClientAddress, convert};
use crate::accounts::Accounts;
use crate::signing::KeyRing;

pub(super) struct AuthRpcs {
    pub(super) accounts: Arc<Accounts>,
    pub(super) ring: Arc<KeyRing>,
    pub(super) verifier: Arc<TokenVerifier>,
    pub(super) client_address: ClientAddress,
}

#[tonic::async_trait]
impl AuthService for AuthRpcs {
    async fn sign_up(&self, request: Request<SignUpRequest>) -> Result<Response<SignUpResponse>, Status> {
        let client = self.client_address.client(&request);
        let sign_up = convert::sign_up(request.get_ref(), &client)?;
        let user = self.accounts.sign_up(sign_up).await?;
        Ok(Response::new(SignUpResponse { user: Some(convert::user(&user)) }))
    }

    async fn sign_in(&self, request: Request<SignInRequest>) -> Result<Response<SignInResponse>, Status> {
        let client = self.client_address.client(&request);
        let sign_in = convert::sign_in(request.get_ref(), client)?;
        let tokens = self.accounts.sign_in(sign_in).await?;
        Ok(Response::new(convert::signed_in(&tokens)))
    }

    async fn get_jwks(&self, _: Request<GetJwksRequest>) -> Result<Response<GetJwksResponse>, Status> {
        Ok(Response::new(GetJwksResponse { jwks_json: self.ring.jwks_json().to_owned() }))
    }

    async fn refresh_tokens(
        &self,
        request: Request<RefreshTokensRequest>,
    ) -> Result<Response<RefreshTokensResponse>, Status> {
        let presented = convert::refresh_token(&request.get_ref().refresh_token)?;
        let tokens = self.accounts.refresh_tokens(&presented).await?;
        Ok(Response::new(convert::refreshed(&tokens)))
    }

    async fn sign_out(&self, request: Request<SignOutRequest>) -> Result<Response<SignOutResponse>, Status> {
        let presented = convert::refresh_token(&request.get_ref().refresh_token)?;
        self.accounts.sign_out(&presented).await?;
        Ok(Response::new(SignOutResponse {}))
    }

    async fn reset_password(
        &self,
        request: Request<ResetPasswordRequest>,
    ) -> Result<Response<ResetPasswordResponse>, Status> {
        let token = convert::reset_token(request.get_ref())?;
        let holder = self.accounts.reset_holder(&token).await?;
        let new = convert::new_password(request.get_ref(), &holder.email)?;
        self.accounts.reset_password(&token, &holder, new).await?;
        Ok(Response::new(ResetPasswordResponse {}))
    }

    async fn issue_service_token(
        &self,
        request: Request<IssueServiceTokenRequest>,
    ) -> Result<Response<IssueServiceTokenResponse>, Status> {
        let client = self.client_address.client(&request);
        let sign_in = convert::service_sign_in(request.get_ref(), &client)?;
        let issued = self.accounts.issue_service_token(sign_in).await?;
        Ok(Response::new(IssueServiceTokenResponse {
            access_token: issued.token.expose().to_owned(),
            access_token_expire_time: Some(timestamp(issued.expire_time)),
        }))
    }

    async fn introspect_token(
        &self,
        request: Request<IntrospectTokenRequest>,
    ) -> Result<Response<IntrospectTokenResponse>, Status> {
        let token = convert::token(request.get_ref())?;
        let holder = match self.verifier.verify(token) {
            Ok(holder) => holder,
            Err(TokenError::Invalid | TokenError::Expired | TokenError::Revoked) => {
                return Ok(Response::new(IntrospectTokenResponse::default()));
            }
            // Nobody can say.
            Err(error @ (TokenError::NoKeys | TokenError::RevocationsUnknown)) => {
                return Err(error.failure(DOMAIN).into());
            }
        };
        let stands = self.accounts.stands(&holder).await?;
        Ok(Response::new(if stands { convert::introspected(&holder) } else { Default::default() }))
    }
}
