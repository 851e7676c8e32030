CREATE TABLE things (
    id    bigint PRIMARY KEY,
    count integer NOT NULL CHECK (count >= 0)
);
INSERT INTO things VALUES (1, 10), (2, 10);
