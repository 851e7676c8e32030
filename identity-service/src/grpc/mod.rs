//! The services of `rowlock.identity.v1`: reading requests, calling [`crate::accounts`], writing answers. The
//! only place that knows gRPC's messages and status codes.

mod access;
mod auth_service;
mod client;
mod convert;
mod error;
mod page;
mod revocation_service;
mod service_account_service;
mod user_service;
mod user_update;

use std::sync::Arc;

use rowlock_proto::identity::v1::auth_service_server::AuthServiceServer;
use rowlock_proto::identity::v1::revocation_service_server::RevocationServiceServer;
use rowlock_proto::identity::v1::service_account_service_server::ServiceAccountServiceServer;
use rowlock_proto::identity::v1::user_service_server::UserServiceServer;
use service_core::token::TokenVerifier;
use tonic::service::Routes;

use crate::accounts::Accounts;
use crate::signing::KeyRing;

pub use access::{ACCESS, STREAMS};
pub use client::ClientAddress;
pub use error::DOMAIN;
pub use revocation_service::Revocations;

/// The services by their full names, as health checks ask for them.
pub const SERVICE_NAMES: [&str; 4] = [
    "rowlock.identity.v1.AuthService",
    "rowlock.identity.v1.UserService",
    "rowlock.identity.v1.ServiceAccountService",
    "rowlock.identity.v1.RevocationService",
];

/// All services. Messages of more than `max_message_bytes` are refused.
#[must_use]
pub fn routes(
    accounts: Arc<Accounts>,
    ring: Arc<KeyRing>,
    verifier: Arc<TokenVerifier>,
    client_address: ClientAddress,
    revocations: Revocations,
    max_message_bytes: usize,
) -> Routes {
    let auth = auth_service::AuthRpcs {
        accounts: accounts.clone(),
        ring,
        verifier,
        client_address: client_address.clone(),
    };
    let service_accounts = service_account_service::ServiceAccountRpcs { accounts: accounts.clone() };
    let users = user_service::UserRpcs { accounts, client_address };
    Routes::new(AuthServiceServer::new(auth).max_decoding_message_size(max_message_bytes))
        .add_service(UserServiceServer::new(users).max_decoding_message_size(max_message_bytes))
        .add_service(
            ServiceAccountServiceServer::new(service_accounts).max_decoding_message_size(max_message_bytes),
        )
        .add_service(
            RevocationServiceServer::new(revocation_service::RevocationRpcs(revocations))
                .max_decoding_message_size(max_message_bytes),
        )
}
