-- The seating schema. Every table carries event_id and leads its primary key with it, so that the database can be
-- distributed by event: no booking transaction touches two events that have to change together.

CREATE TABLE events (
    id                       uuid        PRIMARY KEY,
    organizer_id             uuid        NOT NULL,   -- the user who owns the event (identity's id; no foreign key crosses the services)
    title                    text        NOT NULL,
    description              text        NOT NULL,
    location                 text        NOT NULL,
    start_time               timestamptz NOT NULL,
    end_time                 timestamptz NOT NULL,
    registration_open_time   timestamptz,            -- NULL: open as soon as the event is published
    registration_close_time  timestamptz,            -- NULL: closes at start_time
    capacity                 integer     NOT NULL,   -- seats in all
    seats_remaining          integer     NOT NULL,   -- seats that no registration and no offer holds
    waitlist_size            integer     NOT NULL DEFAULT 0,   -- entries that are WAITING
    largest_party            integer     NOT NULL DEFAULT 1,   -- most seats that any queue entry ever asked for; bounds the search for heads
    next_position            bigint      NOT NULL DEFAULT 1,   -- the queue position that the next entry gets; never goes back
    max_seats_per_registration integer   NOT NULL,
    waitlist_policy          text        NOT NULL,   -- PROMOTE | OFFER
    offer_ttl_ms             bigint      NOT NULL,   -- how long an offer stands, in milliseconds
    queue_discipline         text        NOT NULL,   -- STRICT | SKIP_AHEAD
    state                    text        NOT NULL,   -- DRAFT | PUBLISHED | CANCELLED
    cancel_reason            text        NOT NULL DEFAULT '',
    revision                 bigint      NOT NULL DEFAULT 1,   -- counts the organizer's changes; the etag
    version                  bigint      NOT NULL,   -- the last version given in the change log
    request_id               uuid,                   -- CreateEvent's idempotency key, scoped to the creator
    request_actor_id         uuid,
    request_fingerprint      bytea,                  -- digest of the request that came with request_id
    simulation_lease_time    timestamptz,            -- set on the private copies of a simulated rush: not listed, and swept once this time has passed
    create_time              timestamptz NOT NULL,
    update_time              timestamptz NOT NULL,
    search                   tsvector    GENERATED ALWAYS AS (to_tsvector('simple', title || ' ' || location || ' ' || description)) STORED,

    CONSTRAINT events_capacity_range  CHECK (capacity BETWEEN 1 AND 1000000),
    -- The last line of defence behind the row lock: no transaction, however wrong, can sell a seat that is not there.
    CONSTRAINT events_seats_in_range  CHECK (seats_remaining BETWEEN 0 AND capacity),
    CONSTRAINT events_waitlist_range  CHECK (waitlist_size >= 0),
    CONSTRAINT events_state           CHECK (state IN ('DRAFT', 'PUBLISHED', 'CANCELLED')),
    CONSTRAINT events_policy          CHECK (waitlist_policy IN ('PROMOTE', 'OFFER')),
    CONSTRAINT events_discipline      CHECK (queue_discipline IN ('STRICT', 'SKIP_AHEAD')),
    CONSTRAINT events_times           CHECK (start_time < end_time)
) WITH (
    -- The row is rewritten by every batch: room on the page keeps those updates HOT (no column that changes with the
    -- seats is indexed).
    fillfactor = 50
);

CREATE INDEX events_by_start     ON events (start_time, id) WHERE simulation_lease_time IS NULL;
CREATE INDEX events_by_organizer ON events (organizer_id, start_time, id) WHERE simulation_lease_time IS NULL;
-- What can be booked while it runs: found by the present time, however much has begun before.
CREATE INDEX events_open_late    ON events USING gist (tstzrange(start_time, GREATEST(start_time, registration_close_time)))
    WHERE registration_close_time > start_time AND simulation_lease_time IS NULL;
CREATE INDEX events_by_text      ON events USING gin (search) WITH (fastupdate = off) WHERE simulation_lease_time IS NULL;
CREATE INDEX events_by_lease     ON events (simulation_lease_time) WHERE simulation_lease_time IS NOT NULL;
CREATE UNIQUE INDEX events_request ON events (request_actor_id, request_id) WHERE request_id IS NOT NULL;

CREATE TABLE registrations (
    event_id             uuid        NOT NULL,
    id                   uuid        NOT NULL,
    user_id              uuid        NOT NULL,
    seats                integer     NOT NULL,
    state                text        NOT NULL,   -- HELD | CONFIRMED | CHECKED_IN | CANCELLED | EXPIRED
    hold_expire_time     timestamptz,            -- set while (and after) the seats are or were held
    waitlist_entry_id    uuid,                   -- the queue entry that it came from
    labels               jsonb       NOT NULL DEFAULT '{}',
    request_actor_id     uuid,                   -- the caller, who need not be the user
    request_id           uuid,
    request_fingerprint  bytea,
    create_time          timestamptz NOT NULL,
    update_time          timestamptz NOT NULL,
    confirm_time         timestamptz,
    cancel_time          timestamptz,
    check_in_time        timestamptz,

    PRIMARY KEY (event_id, id),
    CONSTRAINT registrations_seats CHECK (seats > 0),
    CONSTRAINT registrations_state CHECK (state IN ('HELD', 'CONFIRMED', 'CHECKED_IN', 'CANCELLED', 'EXPIRED')),
    CONSTRAINT registrations_hold  CHECK (state <> 'HELD' OR hold_expire_time IS NOT NULL)
);

-- One active registration per user and event, whatever the code does; one that has ended does not stand in the way.
CREATE UNIQUE INDEX registrations_active  ON registrations (event_id, user_id) WHERE state IN ('HELD', 'CONFIRMED', 'CHECKED_IN');
CREATE UNIQUE INDEX registrations_request ON registrations (event_id, request_actor_id, request_id) WHERE request_id IS NOT NULL;
CREATE INDEX registrations_by_id    ON registrations (id);                -- clients name a registration by its id alone
CREATE INDEX registrations_by_user  ON registrations (user_id, id);       -- "mine"
CREATE INDEX registrations_holds    ON registrations (hold_expire_time) WHERE state = 'HELD';

CREATE TABLE waitlist_entries (
    event_id             uuid        NOT NULL,
    position             bigint      NOT NULL,   -- order of arrival, given under the event's lock, never reused
    id                   uuid        NOT NULL,
    user_id              uuid        NOT NULL,
    seats                integer     NOT NULL,
    state                text        NOT NULL,   -- WAITING | PROMOTED | OFFERED | ACCEPTED | DECLINED | EXPIRED | LEFT | CANCELLED
    offer_expire_time    timestamptz,
    registration_id      uuid,                   -- the registration that it became
    labels               jsonb       NOT NULL DEFAULT '{}',
    request_actor_id     uuid,
    request_id           uuid,
    request_fingerprint  bytea,
    create_time          timestamptz NOT NULL,
    update_time          timestamptz NOT NULL,

    PRIMARY KEY (event_id, position),
    CONSTRAINT waitlist_entries_seats CHECK (seats > 0),
    CONSTRAINT waitlist_entries_state CHECK (state IN
        ('WAITING', 'PROMOTED', 'OFFERED', 'ACCEPTED', 'DECLINED', 'EXPIRED', 'LEFT', 'CANCELLED')),
    CONSTRAINT waitlist_entries_offer CHECK (state <> 'OFFERED' OR offer_expire_time IS NOT NULL)
);

-- One place in the queue per user and event.
CREATE UNIQUE INDEX waitlist_entries_active  ON waitlist_entries (event_id, user_id) WHERE state IN ('WAITING', 'OFFERED');
CREATE UNIQUE INDEX waitlist_entries_request ON waitlist_entries (event_id, request_actor_id, request_id) WHERE request_id IS NOT NULL;
-- The heads of the queue, by size of party: what a freed seat is given to.
CREATE INDEX waitlist_entries_heads   ON waitlist_entries (event_id, seats, position) WHERE state = 'WAITING';
-- A rank is the distance to the head less those who went from between: few, so counting them is cheap however long the queue.
CREATE INDEX waitlist_entries_gone    ON waitlist_entries (event_id, position) WHERE state <> 'WAITING';
CREATE INDEX waitlist_entries_by_id   ON waitlist_entries (id);
CREATE INDEX waitlist_entries_by_user ON waitlist_entries (user_id, id);
CREATE INDEX waitlist_entries_offers  ON waitlist_entries (offer_expire_time) WHERE state = 'OFFERED';

-- The change log: audit trail and feed at once. Written by the transaction that makes the change.
CREATE TABLE changes (
    event_id        uuid        NOT NULL,
    version         bigint      NOT NULL,   -- 1, 2, 3 … without a gap per event, given under the event's lock
    actor_id        uuid        NOT NULL,   -- who did it; the nil UUID for the system itself
    actor_role      text        NOT NULL,   -- ATTENDEE | ORGANIZER | ADMIN | SERVICE | SYSTEM
    action          text        NOT NULL,
    entity_id       uuid        NOT NULL,   -- the event, registration or queue entry that changed
    subject_id      uuid,                   -- the user whom it concerns, if it concerns one
    details         jsonb       NOT NULL,
    change_time     timestamptz NOT NULL,   -- the database's clock, read under the lock
    batch           bigint      NOT NULL,   -- the writing transaction's number, see change_batches

    PRIMARY KEY (event_id, version)
);

-- Orders the whole log. A transaction draws its number after it has locked its events, so of two transactions that change
-- one event the later one has the higher number. (Its transaction id does not do: that one is given with the first of
-- its locks, and a transaction that then waits for its second lock writes after others with higher ids.) Numbers are
-- drawn, not committed, in order: how far the log can be read without passing over somebody is worked out in
-- booking-service's store/changes.rs.
CREATE SEQUENCE change_batches AS bigint CACHE 1;

CREATE INDEX changes_by_batch ON changes (batch, event_id, version);
-- What organizers, admins and services did. Attendees act on what is theirs, and are found by that.
CREATE INDEX changes_by_staff ON changes (actor_id, batch) WHERE actor_role <> 'ATTENDEE';

-- For the trail of a period: times follow the order of the log, so a few bytes for each stretch of it do.
CREATE INDEX changes_by_time ON changes USING brin (change_time) WITH (pages_per_range = 32, autosummarize = on);

-- How far retention has removed the beginning of the log: one row. Changes up to this place, itself included, may be gone.
-- A whole place, not only its batch: a reader may stand in the middle of one.
CREATE TABLE change_log_floor (
    singleton  boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    batch      bigint  NOT NULL,
    event_id   uuid    NOT NULL,
    version    bigint  NOT NULL
);
INSERT INTO change_log_floor (batch, event_id, version) VALUES (0, '00000000-0000-0000-0000-000000000000', 0);
