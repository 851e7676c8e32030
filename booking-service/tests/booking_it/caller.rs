//! Somebody who calls: an id, a role, a token, and a replica.

use rowlock_proto::booking::v1::audit_service_client::AuditServiceClient;
use rowlock_proto::booking::v1::change_service_client::ChangeServiceClient;
use rowlock_proto::booking::v1::event_service_client::EventServiceClient;
use rowlock_proto::booking::v1::registration_service_client::RegistrationServiceClient;
use rowlock_proto::booking::v1::simulation_service_client::SimulationServiceClient;
use rowlock_proto::booking::v1::waitlist_service_client::WaitlistServiceClient;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status};
use uuid::Uuid;

use crate::system::Replica;

/// A client whose every call carries the caller's token.
pub(crate) type Client = InterceptedService<Channel, Bearer>;

#[derive(Clone)]
pub(crate) struct Caller {
    pub(crate) id: Uuid,
    pub(crate) bearer: Bearer,
    pub(crate) channel: Channel,
}

/// Puts a token into calls.
#[derive(Clone)]
pub(crate) struct Bearer(pub(crate) MetadataValue<Ascii>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

impl Caller {
    pub(crate) fn new(id: Uuid, token: &str, channel: Channel) -> Self {
        Self { id, bearer: Bearer(format!("Bearer {token}").parse().unwrap()), channel }
    }

    /// The same person at this replica.
    pub(crate) fn at(&self, replica: &Replica) -> Self {
        Self { channel: replica.channel.clone(), ..self.clone() }
    }

    fn client(&self) -> Client {
        InterceptedService::new(self.channel.clone(), self.bearer.clone())
    }

    pub(crate) fn events(&self) -> EventServiceClient<Client> {
        EventServiceClient::new(self.client())
    }

    pub(crate) fn registrations(&self) -> RegistrationServiceClient<Client> {
        RegistrationServiceClient::new(self.client())
    }

    pub(crate) fn waitlists(&self) -> WaitlistServiceClient<Client> {
        WaitlistServiceClient::new(self.client())
    }

    pub(crate) fn audits(&self) -> AuditServiceClient<Client> {
        AuditServiceClient::new(self.client())
    }

    pub(crate) fn changes(&self) -> ChangeServiceClient<Client> {
        ChangeServiceClient::new(self.client())
    }

    pub(crate) fn simulations(&self) -> SimulationServiceClient<Client> {
        SimulationServiceClient::new(self.client())
    }
}
