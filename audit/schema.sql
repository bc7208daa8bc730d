-- One schema for SQLite and PostgreSQL. SERIAL_KEY is replaced by each one's growing primary key.
-- Texts are ASCII (JSON escapes the rest), for neither takes every text that an event can hold.

CREATE TABLE IF NOT EXISTS events (
    request   TEXT PRIMARY KEY,           -- identity of the API request, or of a notice
    cluster   TEXT NOT NULL,
    document  TEXT NOT NULL,              -- the redacted event, or the facts of a notice, as JSON
    stored_at DOUBLE PRECISION NOT NULL   -- seconds since the epoch
);
CREATE INDEX IF NOT EXISTS events_age ON events (stored_at);

-- An alert is one request that matched one rule, however often and in whatever stage it came.
CREATE TABLE IF NOT EXISTS alerts (
    id        SERIAL_KEY,
    request   TEXT NOT NULL REFERENCES events (request),
    rule      TEXT NOT NULL,
    urgency   INTEGER NOT NULL,           -- index of the rule's level
    about     TEXT NOT NULL,              -- what the rule said of itself then, as JSON
    state     TEXT NOT NULL,              -- pending, sent, set-aside, recorded
    due_at    DOUBLE PRECISION NOT NULL,
    attempts  INTEGER NOT NULL DEFAULT 0,
    note      TEXT NOT NULL DEFAULT '',   -- what the message must say of earlier attempts
    error     TEXT NOT NULL DEFAULT '',
    message   BIGINT,                     -- which message told it
    stored_at DOUBLE PRECISION NOT NULL,
    UNIQUE (request, rule)
);
-- Alerts that failed three times let all others pass, so that one bad message stops no other.
CREATE INDEX IF NOT EXISTS alerts_pending
    ON alerts ((attempts >= 3), urgency DESC, id) WHERE state = 'pending';
CREATE INDEX IF NOT EXISTS alerts_age ON alerts (stored_at);
-- For counting; without `pending`, so that it is never chosen where the order above is needed.
CREATE INDEX IF NOT EXISTS alerts_told ON alerts (state) WHERE state <> 'pending';

CREATE TABLE IF NOT EXISTS messages (
    id          SERIAL_KEY,
    destination TEXT NOT NULL,
    reference   TEXT NOT NULL,            -- Slack's channel and ts, where it gives them
    summary     TEXT NOT NULL,
    sent_at     DOUBLE PRECISION NOT NULL
);

CREATE TABLE IF NOT EXISTS destinations (
    name     TEXT PRIMARY KEY,
    failures INTEGER NOT NULL,            -- in a row; 0 is well
    retry_at DOUBLE PRECISION NOT NULL,
    reason   TEXT NOT NULL,
    error    TEXT NOT NULL,
    seconds  DOUBLE PRECISION NOT NULL    -- how long the last answer took
);

CREATE TABLE IF NOT EXISTS quarantine (
    digest    TEXT PRIMARY KEY,
    cluster   TEXT NOT NULL,
    reason    TEXT NOT NULL,
    excerpt   TEXT NOT NULL,              -- redacted, at most a megabyte
    stored_at DOUBLE PRECISION NOT NULL
);

CREATE TABLE IF NOT EXISTS counters (
    name  TEXT PRIMARY KEY,
    value BIGINT NOT NULL
);
