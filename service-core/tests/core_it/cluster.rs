use service_core::test_support::TestCluster;
use sqlx::migrate::Migrator;

pub(crate) static FIRST: Migrator = sqlx::migrate!("tests/core_it/migrations/first");

#[tokio::test]
async fn every_test_gets_a_database_of_its_own_with_the_schema() {
    let (one, two) =
        (TestCluster::database("core", &FIRST).await, TestCluster::database("core", &FIRST).await);
    assert_ne!(one.name, two.name);
    let pool = one.pool(2);
    sqlx::query("DELETE FROM things").execute(&pool).await.unwrap();
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM things").fetch_one(&two.pool(1)).await.unwrap();
    assert_eq!(left, 2);
}
