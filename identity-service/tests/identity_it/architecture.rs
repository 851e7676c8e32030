//! The arrows between the modules: grpc → accounts → store → domain.

use service_core::test_support::SourceTree;

fn sources() -> SourceTree {
    SourceTree::of(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn messages_and_status_codes_stay_in_grpc() {
    // `serve` hands the descriptor set to reflection.
    sources().only_in(&["grpc/", "serve.rs"], &["tonic", "prost", "rowlock_proto"]);
    sources().only_in(&["grpc/"], &["rowlock_proto::identity"]);
}

#[test]
fn sql_stays_in_the_store() {
    sources().only_in(&["store/"], &["sqlx::query", "PgConnection", "PgExecutor", "run_tx"]);
}

#[test]
fn the_domain_is_pure() {
    let outside =
        ["async", "await", "tokio", "sqlx", "Clock", "now()", "std::fs", "std::net", "tracing", "crate::"];
    sources().never_in("domain/", &outside);
}
