-- Accounts of other backends. A deleted one leaves its revocation and its audit entries, and no row.

CREATE TABLE service_accounts (
    id                    uuid        PRIMARY KEY,           -- UUID v7, made by the service; the `sub` claim
    client_id             text        NOT NULL,              -- what the backend names itself by; random, so that nobody who meets the id can block the account by guessing
    display_name          text        NOT NULL,              -- what the account is for; 1 to 100 characters
    secret_hash           bytea       NOT NULL,              -- SHA-256 of the secret, which is 256 random bits: nobody can try them all, so a slow hash adds nothing
    secret_create_time    timestamptz NOT NULL,              -- when the present secret was made
    old_secret_hash       bytea,                             -- the secret before, while it still works; null: there is none
    old_secret_expire_time timestamptz,                      -- from when on it does not; null: there is none
    session_version       bigint      NOT NULL DEFAULT 1,    -- the `sv` claim; raising it ends every token issued before
    create_time           timestamptz NOT NULL,              -- when the account was made
    CONSTRAINT service_accounts_client_id_key UNIQUE (client_id),
    CONSTRAINT service_accounts_display_name_length CHECK (char_length(display_name) BETWEEN 1 AND 100),
    CONSTRAINT service_accounts_hash_length CHECK (octet_length(secret_hash) = 32 AND octet_length(old_secret_hash) = 32),
    CONSTRAINT service_accounts_old_secret CHECK (num_nonnulls(old_secret_hash, old_secret_expire_time) <> 1)
);
