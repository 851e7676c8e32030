-- Who people are, what they are signed in with, and how often somebody guessed wrong.

CREATE TABLE users (
    id              uuid        PRIMARY KEY,              -- UUID v7, made by the service
    email           text        NOT NULL,                 -- in lower case, ASCII; unique
    password_hash   text        NOT NULL,                 -- PHC string ($argon2id$…): algorithm, parameters, salt and hash
    display_name    text        NOT NULL,                 -- shown to others; 1 to 100 characters
    role            text        NOT NULL,                 -- what the user may do; also the word in the token's `role` claim
    active          boolean     NOT NULL DEFAULT true,    -- false: cannot sign in, whatever the password
    session_version bigint      NOT NULL DEFAULT 1,       -- the `sv` claim; raising it ends every token issued before
    revision        bigint      NOT NULL DEFAULT 1,       -- counts the changes that a client sees; the etag is made of it
    create_time     timestamptz NOT NULL,                 -- when the user signed up
    update_time     timestamptz NOT NULL,                 -- when something that a client sees changed last
    CONSTRAINT users_role_known CHECK (role IN ('attendee', 'organizer', 'admin')),
    CONSTRAINT users_email_length CHECK (char_length(email) BETWEEN 3 AND 254),
    CONSTRAINT users_display_name_length CHECK (char_length(display_name) BETWEEN 1 AND 100)
);

-- Two sign-ups of one address at once: this index lets one of them win.
CREATE UNIQUE INDEX users_email_key ON users (lower(email));

-- One row per sign-in: the family of all refresh tokens that descend from it.
CREATE TABLE sessions (
    id            uuid        PRIMARY KEY,                -- UUID v7; the `sid` claim
    user_id       uuid        NOT NULL REFERENCES users (id) ON DELETE CASCADE, -- who signed in
    user_agent    text        NOT NULL,                   -- what the client called itself, cut to 200 characters; may be empty
    create_time   timestamptz NOT NULL,                   -- when the user signed in
    last_use_time timestamptz NOT NULL,                   -- when a refresh token of this session was issued last
    expire_time   timestamptz NOT NULL,                   -- when the newest refresh token lapses
    revoke_time   timestamptz                             -- when the session was ended; null while it lives
);

-- A user's sessions, newest first.
CREATE INDEX sessions_of_user ON sessions (user_id, id DESC);
-- What the sweeper removes.
CREATE INDEX sessions_by_expiry ON sessions (expire_time);

CREATE TABLE refresh_tokens (
    token_hash  bytea       PRIMARY KEY,                  -- SHA-256 of the token; the token itself is never stored
    session_id  uuid        NOT NULL REFERENCES sessions (id) ON DELETE CASCADE, -- the family
    create_time timestamptz NOT NULL,                     -- when it was issued
    expire_time timestamptz NOT NULL,                     -- when it lapses unused
    use_time    timestamptz,                              -- when it was exchanged; a second use is theft and ends the family
    CONSTRAINT refresh_tokens_hash_length CHECK (octet_length(token_hash) = 32)
);

CREATE INDEX refresh_tokens_of_session ON refresh_tokens (session_id);

-- Failed sign-ins, counted per account and per client address. Keys are digests, so that the table tells nothing about
-- addresses that were only tried, and unknown e-mails are counted exactly as known ones.
CREATE TABLE sign_in_failures (
    scope             text        NOT NULL,               -- what is counted: an account or a client address
    key_hash          bytea       NOT NULL,               -- SHA-256 of the lower-cased e-mail, or of the address
    failures          integer     NOT NULL,               -- failures in a row (account), or since the last pause (address)
    last_failure_time timestamptz NOT NULL,               -- when the newest of them happened
    blocked_until     timestamptz,                        -- no sign-in is judged before this time; null: not blocked
    PRIMARY KEY (scope, key_hash),
    CONSTRAINT sign_in_failures_scope_known CHECK (scope IN ('account', 'address')),
    CONSTRAINT sign_in_failures_counted CHECK (failures >= 0)
);

-- What the sweeper removes.
CREATE INDEX sign_in_failures_by_age ON sign_in_failures (last_failure_time);
