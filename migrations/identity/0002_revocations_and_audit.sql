-- Which tokens to refuse before they expire, and who did what to whom.

-- What WatchRevocations streams. A row is written by the transaction that ends a session or raises a session_version, and
-- never changes; the sweeper removes it once expire_time has passed.
--
-- Reading what is new: ids are drawn in order but committed out of order, so "id above the last one seen" would miss rows.
-- A reader keeps pg_snapshot_xmin(pg_current_snapshot()), taken by the statement that it looked with, and asks next time for rows
-- with transaction_id from there on: every transaction below it had ended by then, so what it wrote was seen. Some rows
-- come twice, which does no harm. (Transaction ids are those of one cluster: a reader that meets a lower xmin than
-- before talks to a restored copy, and begins anew with everything that has not expired.)
CREATE TABLE revocations (
    id                      bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY, -- for order in lists; no promise about commits
    user_id                 uuid        NOT NULL,         -- the `sub` claim: a user's id or a service account's
    session_id              uuid,                         -- refuse tokens with this `sid` claim; null: by version
    minimum_session_version bigint,                       -- refuse the user's tokens with a lower `sv` claim; null: by session
    revoke_time             timestamptz NOT NULL,         -- when they were revoked
    expire_time             timestamptz NOT NULL,         -- when no such token can be alive any more, whatever its lifetime
    transaction_id          xid8        NOT NULL DEFAULT pg_current_xact_id(), -- who wrote it, for readers
    CONSTRAINT revocations_one_target CHECK (num_nonnulls(session_id, minimum_session_version) = 1)
);

-- What a reader asks for: what is new.
CREATE INDEX revocations_by_transaction ON revocations (transaction_id);
-- What still matters, and what the sweeper removes.
CREATE INDEX revocations_by_expiry ON revocations (expire_time);

-- What happened to accounts, each row by the transaction that did it. Kept for ever; see the trigger below.
CREATE TABLE audit_entries (
    id          uuid        PRIMARY KEY,                  -- UUID v7, made by the service
    action      text        NOT NULL,                     -- what was done
    actor_id    uuid,                                     -- who did it: a user; null: nobody who is signed in, or the command line
    subject_id  uuid        NOT NULL,                     -- to whom: a user or a service account; no foreign key, the entry outlives them
    session_id  uuid,                                     -- the session that began, ended or acted, where it is one
    details     jsonb       NOT NULL DEFAULT '{}',        -- what else there is to say; never names, addresses or secrets
    create_time timestamptz NOT NULL,                     -- when
    CONSTRAINT audit_entries_action_known CHECK (action IN (
        'signed_in', 'sign_in_paused', 'signed_out', 'refresh_token_reused', 'session_revoked', 'sessions_revoked',
        'password_changed', 'user_updated', 'admin_created', 'admin_reset',
        'service_account_created', 'service_account_secret_rotated', 'service_account_deleted'))
);

-- "What happened to this account", newest first; ids begin with the time.
CREATE INDEX audit_entries_of_subject ON audit_entries (subject_id, id DESC);
-- "What did this person do", newest first.
CREATE INDEX audit_entries_of_actor ON audit_entries (actor_id, id DESC) WHERE actor_id IS NOT NULL;

-- Append-only, also for the owner of the table and whoever gets hold of the service's role: privileges alone would not bind
-- the owner. Who must remove old entries disables the trigger for it, as the owner and by hand.
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'entries of % are never changed or removed', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END
$$;

CREATE TRIGGER audit_entries_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_entries
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- The last active admin stays one: whoever would end that locks these rows first, in the order of ids.
CREATE INDEX users_active_admins ON users (id) WHERE role = 'admin' AND active;
