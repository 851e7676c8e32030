//! The contract of Rowlock: messages, services, and their descriptor set.

/// What identity-service speaks.
pub mod identity {
    /// Package `rowlock.identity.v1`.
    pub mod v1 {
        tonic::include_proto!("rowlock.identity.v1");
    }
}

/// What booking-service speaks.
pub mod booking {
    /// Package `rowlock.booking.v1`.
    pub mod v1 {
        tonic::include_proto!("rowlock.booking.v1");
    }
}

/// The encoded `FileDescriptorSet` of both packages and their imports, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/rowlock_descriptor.bin"));

impl identity::v1::ErrorReason {
    /// The name that `google.rpc.ErrorInfo.reason` carries: `EMAIL_TAKEN` for `ERROR_REASON_EMAIL_TAKEN`.
    #[must_use]
    pub fn reason(self) -> &'static str {
        without_prefix(self.as_str_name())
    }
}

impl booking::v1::ErrorReason {
    /// The name that `google.rpc.ErrorInfo.reason` carries: `EVENT_FULL` for `ERROR_REASON_EVENT_FULL`.
    #[must_use]
    pub fn reason(self) -> &'static str {
        without_prefix(self.as_str_name())
    }
}

fn without_prefix(name: &'static str) -> &'static str {
    name.strip_prefix("ERROR_REASON_").unwrap_or(name)
}
