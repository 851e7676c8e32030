-- no-transaction
CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS things_by_count ON things (count);
