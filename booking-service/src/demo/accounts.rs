//! Accounts at identity-service.

use anyhow::Context;
use rowlock_proto::identity::v1 as pb;
use rowlock_proto::identity::v1::auth_service_client::AuthServiceClient;
use service_core::secret::Secret;
use tonic::Code;
use tonic::transport::Channel;

use super::Bearer;

pub(super) struct Account {
    email: String,
    password: Secret,
    display_name: &'static str,
    role: pb::Role,
}

impl Account {
    pub(super) fn organizer(email: &str, password: Secret) -> Self {
        Self { email: email.to_owned(), password, display_name: "Olga Organizer", role: pb::Role::Organizer }
    }

    pub(super) fn attendee(email: &str, password: Secret) -> Self {
        Self { email: email.to_owned(), password, display_name: "Adam Attendee", role: pb::Role::Attendee }
    }

    /// Signs in, and up before that if need be.
    pub(super) async fn sign_in(&self, identity: &Channel) -> anyhow::Result<Bearer> {
        let mut auth = AuthServiceClient::new(identity.clone());
        let sign_up = pb::SignUpRequest {
            email: self.email.clone(),
            password: self.password.expose().to_owned(),
            display_name: self.display_name.to_owned(),
            role: self.role.into(),
        };
        match auth.sign_up(sign_up).await {
            Ok(_) => {}
            Err(status) if status.code() == Code::AlreadyExists => {}
            Err(status) => return Err(status.into()),
        }
        let sign_in =
            pb::SignInRequest { email: self.email.clone(), password: self.password.expose().to_owned() };
        let session = auth.sign_in(sign_in).await?.into_inner();
        let mut bearer: Bearer =
            format!("Bearer {}", session.access_token).parse().context("the token is not ASCII")?;
        bearer.set_sensitive(true);
        Ok(bearer)
    }
}
