//! How the tests' own servers are served.

use crate::auth::Role;
use crate::config::{ServerConfig, ServerDefaults};

/// The defaults, with attendees limited, at free ports of this machine.
#[must_use]
pub fn server_config() -> ServerConfig {
    let any = ([127, 0, 0, 1], 0).into();
    ServerConfig::at(ServerDefaults { grpc: any, http: any, limited: &[Role::Attendee] })
}
