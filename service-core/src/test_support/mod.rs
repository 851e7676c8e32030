//! For the tests of both services: a throw-away PostgreSQL, databases that are migrated already, access tokens, and
//! certificates.
//!
//! ```no_run
//! # async fn example(migrator: &'static sqlx::migrate::Migrator) {
//! use service_core::test_support::{TestCluster, TokenMint};
//!
//! let database = TestCluster::database("booking", migrator).await;
//! let pool = database.pool(4);
//! let mint = TokenMint::new();
//! let token = mint.token(uuid::Uuid::nil(), service_core::auth::Role::Admin);
//! # }
//! ```
//!
//! What goes wrong here panics: a test cannot go on without it.
#![expect(
    clippy::panic,
    clippy::expect_used,
    reason = "a test without its database or its tokens can only fail"
)]

mod certificates;
mod child;
mod cluster;
mod collector;
mod database;
mod message_dice;
mod metrics_page;
mod reference;
mod secrets;
mod server;
mod server_config;
mod source_tree;
mod supervisor;
mod token_cases;
mod token_mint;

pub use certificates::{TestAuthority, TestCertificate};
pub use child::{Serving, program, run};
pub use cluster::TestCluster;
pub use collector::{CollectedSpan, TestCollector, attribute, hex, traced};
pub use database::TestDatabase;
pub use message_dice::MessageDice;
pub use metrics_page::counted;
pub use reference::assert_reference;
pub use secrets::assert_keeps_secrets;
pub use server::TestServer;
pub use server_config::server_config;
pub use source_tree::SourceTree;
pub use token_cases::{TokenCase, token_cases};
pub use token_mint::{TEST_AUDIENCE, TEST_ISSUER, TokenMint};
