//! The binary as a process of its own.

use std::net::SocketAddr;
use std::process::Command;

use service_core::test_support::{TEST_AUDIENCE, TEST_ISSUER, program};

/// The binary without any option from this process's environment.
pub(crate) fn binary(arguments: &[&str]) -> Command {
    program(env!("CARGO_BIN_EXE_booking-service"), arguments)
}

/// `serve` on free ports.
pub(crate) fn serve(database_url: &str, identity: SocketAddr) -> Command {
    let anywhere = "127.0.0.1:0".parse().unwrap();
    serve_on(anywhere, anywhere, database_url, identity)
}

/// `serve` on these addresses.
pub(crate) fn serve_on(
    grpc: SocketAddr,
    http: SocketAddr,
    database_url: &str,
    identity: SocketAddr,
) -> Command {
    let mut command = binary(&["serve"]);
    command
        .args(["--grpc-addr", &grpc.to_string(), "--http-addr", &http.to_string()])
        .args(["--token-issuer", TEST_ISSUER, "--token-audience", TEST_AUDIENCE])
        .args(["--drain-grace", "10s", "--identity-addr", &format!("http://{identity}")])
        .env("ROWLOCK_DATABASE_URL", database_url);
    command
}
