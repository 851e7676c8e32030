-- A batch that has not waited for its events' locks is written by one statement: it takes the locks, makes sure that
-- `version` and `fence` of each event are what they were when the facts were read, writes and commits. If its answer is
-- lost, it may have done so, or be still on its way.

-- Whoever finds that it has not happened raises the fence, so that it never will.
ALTER TABLE events
    ADD COLUMN fence bigint NOT NULL DEFAULT 0;   -- counts how often writes that were on their way were ruled out

-- Whether it has happened is seen by the first change of each event in a batch.
ALTER TABLE changes
    ADD COLUMN attempt uuid;   -- made up by the writer for this one attempt to write the batch
