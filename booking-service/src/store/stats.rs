//! Counting for organizers.

use sqlx::PgPool;
use uuid::Uuid;

use super::StoreError;
use crate::domain::stats::{EventStats, Tally};

/// An event's numbers, from one statement and so from one moment.
///
/// # Errors
/// Whatever the database says.
pub async fn read(pool: &PgPool, event_id: Uuid) -> Result<Option<EventStats>, StoreError> {
    let row = sqlx::query!(
        r#"
        SELECT e.capacity, e.seats_remaining,
               r.confirmed AS "confirmed!", r.confirmed_seats AS "confirmed_seats!",
               r.held AS "held!", r.held_seats AS "held_seats!",
               r.checked_in AS "checked_in!", r.checked_in_seats AS "checked_in_seats!",
               r.cancelled AS "cancelled!", r.expired AS "expired!", r.first_time, r.last_time,
               w.waiting AS "waiting!", w.waiting_seats AS "waiting_seats!",
               w.offered AS "offered!", w.offered_seats AS "offered_seats!"
          FROM events e
         CROSS JOIN LATERAL (
               SELECT count(*) FILTER (WHERE state = 'CONFIRMED') AS confirmed,
                      COALESCE(sum(seats) FILTER (WHERE state = 'CONFIRMED'), 0) AS confirmed_seats,
                      count(*) FILTER (WHERE state = 'HELD') AS held,
                      COALESCE(sum(seats) FILTER (WHERE state = 'HELD'), 0) AS held_seats,
                      count(*) FILTER (WHERE state = 'CHECKED_IN') AS checked_in,
                      COALESCE(sum(seats) FILTER (WHERE state = 'CHECKED_IN'), 0) AS checked_in_seats,
                      count(*) FILTER (WHERE state = 'CANCELLED') AS cancelled,
                      count(*) FILTER (WHERE state = 'EXPIRED') AS expired,
                      min(create_time) AS first_time, max(create_time) AS last_time
                 FROM registrations WHERE event_id = $1) r
         CROSS JOIN LATERAL (
               SELECT count(*) FILTER (WHERE state = 'WAITING') AS waiting,
                      COALESCE(sum(seats) FILTER (WHERE state = 'WAITING'), 0) AS waiting_seats,
                      count(*) FILTER (WHERE state = 'OFFERED') AS offered,
                      COALESCE(sum(seats) FILTER (WHERE state = 'OFFERED'), 0) AS offered_seats
                 FROM waitlist_entries WHERE event_id = $1) w
         WHERE e.id = $1
        "#,
        event_id,
    )
    .fetch_optional(pool)
    .await?;
    Ok(row.map(|row| EventStats {
        capacity: row.capacity,
        seats_remaining: row.seats_remaining,
        confirmed: Tally { count: row.confirmed, seats: row.confirmed_seats },
        held: Tally { count: row.held, seats: row.held_seats },
        checked_in: Tally { count: row.checked_in, seats: row.checked_in_seats },
        cancelled: row.cancelled,
        expired: row.expired,
        waiting: Tally { count: row.waiting, seats: row.waiting_seats },
        offered: Tally { count: row.offered, seats: row.offered_seats },
        first_registration_time: row.first_time,
        last_registration_time: row.last_time,
    }))
}
