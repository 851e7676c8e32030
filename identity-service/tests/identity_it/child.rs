//! The binary as a process of its own.

use std::process::Command;

use service_core::test_support::{Serving, TestDatabase, program};

/// The binary without any option from this process's environment.
pub(crate) fn binary(arguments: &[&str]) -> Command {
    program(env!("CARGO_BIN_EXE_identity-service"), arguments)
}

/// A running `serve` on free ports, with these arguments besides what it needs.
pub(crate) fn serve(database: &TestDatabase, keys: &str, arguments: &[&str]) -> Serving {
    let mut command = binary(&["serve", "--grpc-addr", "127.0.0.1:0", "--http-addr", "127.0.0.1:0"]);
    command
        .args(["--keys-dir", keys, "--drain-grace", "10s"])
        .args(arguments)
        .env("ROWLOCK_DATABASE_URL", &database.url);
    Serving::start(command)
}
