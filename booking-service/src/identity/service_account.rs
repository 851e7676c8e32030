//! The service account that booking-service is at identity-service.

use rowlock_proto::identity::v1::IssueServiceTokenRequest;
use rowlock_proto::identity::v1::auth_service_client::AuthServiceClient;
use service_core::secret::Secret;
use service_core::trace::TracedChannel;
use time::OffsetDateTime;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::{Request, Status};

/// The credentials of a service account.
#[derive(Clone, Debug)]
pub struct ServiceAccount {
    /// `client_id`.
    pub client_id: String,
    /// `client_secret`.
    pub client_secret: Secret,
}

/// An access token of the service account.
pub(super) struct ServiceToken {
    bearer: MetadataValue<Ascii>,
    /// Half of its life is over then: time for the next one.
    renew_from: OffsetDateTime,
}

impl ServiceAccount {
    pub(super) async fn sign_in(
        &self,
        channel: TracedChannel,
        now: OffsetDateTime,
    ) -> Result<ServiceToken, Status> {
        let request = IssueServiceTokenRequest {
            client_id: self.client_id.clone(),
            client_secret: self.client_secret.expose().to_owned(),
        };
        let issued = AuthServiceClient::new(channel).issue_service_token(request).await?.into_inner();
        let mut bearer: MetadataValue<Ascii> = format!("Bearer {}", issued.access_token)
            .parse()
            .map_err(|_| Status::internal("the access token is no ASCII"))?;
        bearer.set_sensitive(true);
        let expires = issued.access_token_expire_time.map_or(now.unix_timestamp(), |time| time.seconds);
        let left = time::Duration::seconds((expires - now.unix_timestamp()).clamp(0, 3_600) / 2);
        Ok(ServiceToken { bearer, renew_from: now + left })
    }
}

impl ServiceToken {
    pub(super) fn is_fresh(&self, now: OffsetDateTime) -> bool {
        now < self.renew_from
    }

    pub(super) fn sign<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", self.bearer.clone());
        request
    }
}
