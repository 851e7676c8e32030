//! The hot path: load and write, or write alone, or lock, load, write. One batch is one transaction on a session of the
//! runner's own.

mod ending;
mod load;
mod lock;
mod write;

pub use load::{EventVersion, Loaded, load_facts};
pub use lock::{begin_and_lock_events, begin_and_lock_free_events, commit, prepare_lock, rollback};
pub use write::{
    Mark, Moment, are_unchanged, rule_out, was_committed, write_effects, write_if_unchanged,
    write_newcomers_if_unchanged,
};

/// Has every statement planned anew when it is used next.
///
/// A plan that was made while a table was all but empty may read a whole index, which costs nothing then, and everything
/// later; the planner looks at a table's size when it plans.
///
/// # Errors
/// Whatever the database says.
pub async fn discard_plans(connection: &mut sqlx::PgConnection) -> Result<(), super::StoreError> {
    sqlx::raw_sql("DISCARD PLANS").execute(connection).await?;
    Ok(())
}

/// Settings of seating's sessions, besides what every session has.
///
/// A plan made while a table is small is cached and kept while it grows; a sequential scan that cost nothing then costs
/// the whole table for every batch later. These sessions only ever look rows up by key, so the other ways are closed: bitmaps,
/// too, of which the planner takes two to find one entry of a queue, the second with the whole queue in it, as long as it has
/// no statistics.
pub fn session_options(lock_timeout: std::time::Duration) -> Vec<(&'static str, String)> {
    vec![
        ("enable_seqscan", "off".to_owned()),
        ("enable_hashjoin", "off".to_owned()),
        ("enable_mergejoin", "off".to_owned()),
        ("enable_bitmapscan", "off".to_owned()),
        ("plan_cache_mode", "force_generic_plan".to_owned()),
        ("lock_timeout", format!("{}ms", lock_timeout.as_millis())),
        ("timezone", "UTC".to_owned()),
        // Each statement reads what there is when it begins, and a row that it has waited for as it has become.
        ("default_transaction_isolation", "read committed".to_owned()),
    ]
}
