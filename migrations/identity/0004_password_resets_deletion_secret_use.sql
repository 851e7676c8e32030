-- Forgotten passwords, users who go, and which secrets are still in use.

-- One row per user at most: another token takes the place of the one before.
CREATE TABLE password_resets (
    user_id     uuid        PRIMARY KEY REFERENCES users (id) ON DELETE CASCADE, -- whose password it may replace
    token_hash  bytea       NOT NULL,                     -- SHA-256 of the token, which is 256 random bits; the token itself is never stored
    expire_time timestamptz NOT NULL,                     -- when it lapses unused
    CONSTRAINT password_resets_token_hash_key UNIQUE (token_hash),
    CONSTRAINT password_resets_hash_length CHECK (octet_length(token_hash) = 32)
);

-- What the sweeper removes.
CREATE INDEX password_resets_by_expiry ON password_resets (expire_time);

ALTER TABLE service_accounts
    ADD COLUMN secret_last_use_time     timestamptz,      -- when the present secret was used, to within a minute; null: not yet, as far as is known
    ADD COLUMN old_secret_last_use_time timestamptz;      -- the same of the secret before

-- Three acts more. What is there satisfies it: the next migration says so, without a lock that keeps writers out.
ALTER TABLE audit_entries
    DROP CONSTRAINT audit_entries_action_known,
    ADD CONSTRAINT audit_entries_action_known CHECK (action IN (
        'signed_in', 'sign_in_paused', 'signed_out', 'refresh_token_reused', 'session_revoked', 'sessions_revoked',
        'password_changed', 'password_reset_created', 'password_reset', 'user_updated', 'user_deleted',
        'admin_created', 'admin_reset',
        'service_account_created', 'service_account_secret_rotated', 'service_account_deleted')) NOT VALID;
