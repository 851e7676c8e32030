//! The arrows between the modules: grpc → (seating | store) → domain.

use service_core::test_support::SourceTree;

fn sources() -> SourceTree {
    SourceTree::of(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn messages_and_status_codes_stay_in_grpc() {
    // `identity` is a client of identity-service, and the demonstration is nothing but a client.
    let homes = ["grpc/", "identity/", "serve.rs", "config.rs", "demo/"];
    sources().only_in(&homes, &["tonic::", "prost::", "rowlock_proto"]);
    sources().only_in(&["grpc/error.rs"], &["ErrorReason"]);
}

#[test]
fn sql_stays_in_the_store() {
    sources().only_in(&["store/"], &["sqlx::query", "fetch_one", "fetch_all", "fetch_optional", "execute("]);
}

#[test]
fn the_domain_is_pure() {
    let outside =
        ["async ", ".await", "tokio", "sqlx", "tonic", "prost", "Clock", "now_utc", "std::fs", "std::net"];
    sources().never_in("domain/", &outside);
    sources().never_in(
        "domain/",
        &["tracing::", "metrics::", "rand::", "crate::store", "crate::grpc", "crate::seating"],
    );
}

#[test]
fn seating_and_store_know_nothing_of_the_wire() {
    sources().never_in("seating/", &["crate::grpc", "crate::serve"]);
    sources().never_in("store/", &["crate::grpc", "crate::seating", "crate::serve"]);
}
