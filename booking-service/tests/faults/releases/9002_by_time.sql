-- no-transaction
CREATE INDEX CONCURRENTLY IF NOT EXISTS registrations_by_time ON registrations (event_id, create_time);
