-- no-transaction
CREATE INDEX CONCURRENTLY IF NOT EXISTS things_by_name ON things (name);
