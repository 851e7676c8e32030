//! The contract of Rowlock: the generated messages, clients and server traits, and the descriptor set.
//!
//! The `.proto` files below `rowlock/` are the source of everything here and the documentation of the API. Nothing is
//! written by hand but this file, the codec's buffers and the build script.
//!
//! # How to add an rpc
//!
//! 1. Find the service's file, such as `rowlock/booking/v1/event_service.proto`, and add
//!    `rpc DoThing(DoThingRequest) returns (DoThingResponse);` with both messages below. The response wraps the
//!    resource (`Thing thing = 1;`), even if it is all there is: there is room for more later.
//! 2. Comment the rpc (what it does, `Callers:`, `Fails with:`), each message and each field (meaning, unit, range,
//!    default). Fields with a secret get `[debug_redact = true]`, and Rust's `Debug` hides them too.
//! 3. A new way to fail is a new value of `ErrorReason`: its code, when it happens, a sample, what a client should do.
//! 4. Field numbers and names are for ever: add, never change. `buf lint` and `buf breaking` hold this, and the tests of
//!    this crate hold the comments.
//! 5. `cargo build` writes the server trait's new method; the compiler then says where it is missing. The service has a
//!    table of who may call which method: without a line there the method is refused.

mod codec;

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

include!(concat!(env!("OUT_DIR"), "/redacted_debug.rs"));

/// The encoded `google.protobuf.FileDescriptorSet` of both packages and what they import, with the comments: for
/// gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/rowlock_descriptor.bin"));

const REASON_PREFIX: &str = "ERROR_REASON_";

impl identity::v1::ErrorReason {
    /// The name that `google.rpc.ErrorInfo.reason` carries: `EMAIL_TAKEN` for `ERROR_REASON_EMAIL_TAKEN`.
    #[must_use]
    pub fn reason(self) -> &'static str {
        let name = self.as_str_name();
        name.strip_prefix(REASON_PREFIX).unwrap_or(name)
    }
}

impl booking::v1::ErrorReason {
    /// The name that `google.rpc.ErrorInfo.reason` carries: `EVENT_FULL` for `ERROR_REASON_EVENT_FULL`.
    #[must_use]
    pub fn reason(self) -> &'static str {
        let name = self.as_str_name();
        name.strip_prefix(REASON_PREFIX).unwrap_or(name)
    }
}

#[cfg(test)]
mod tests;
