-- name: segment
CREATE TABLE IF NOT EXISTS tierkeeper.segment (
    id           uuid        PRIMARY KEY,
    batch        uuid        NOT NULL UNIQUE REFERENCES tierkeeper.ledger,
    source       text        NOT NULL,
    schema_name  text        NOT NULL,
    table_name   text        NOT NULL,
    age          text        NOT NULL,
    state        text        NOT NULL CHECK (state IN ('copied', 'sealed', 'undone', 'unsure', 'removed')),
    position     bigint      NOT NULL UNIQUE,
    previous     text,
    manifest     text        NOT NULL UNIQUE,
    key_object   text        NOT NULL,
    sha256       text        NOT NULL,
    bytes        bigint      NOT NULL,
    rows         bigint      NOT NULL,
    min_age      timestamptz,
    max_age      timestamptz,
    key_id       text        NOT NULL,
    schema_hash  text        NOT NULL,
    created_at   timestamptz NOT NULL,
    commit_object text,
    removal_object text,
    verified_at  timestamptz
)

-- name: segment_by_age
CREATE INDEX IF NOT EXISTS segment_by_age ON tierkeeper.segment (schema_name, table_name, min_age)

-- name: segment_uncommitted
CREATE INDEX IF NOT EXISTS segment_uncommitted ON tierkeeper.segment (position) WHERE state = 'sealed' AND commit_object IS NULL

-- name: chain
CREATE TABLE IF NOT EXISTS tierkeeper.chain (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    position bigint  NOT NULL DEFAULT 0,
    manifest text
)

-- name: drill
CREATE TABLE IF NOT EXISTS tierkeeper.drill (
    at       timestamptz      PRIMARY KEY,
    ok       boolean          NOT NULL,
    segments bigint           NOT NULL,
    restored bigint           NOT NULL,
    rows     bigint           NOT NULL,
    seconds  double precision NOT NULL,
    wrong    text[]           NOT NULL
)

-- name: wrapping
CREATE TABLE IF NOT EXISTS tierkeeper.wrapping (
    object    text PRIMARY KEY,
    segment   uuid NOT NULL,
    recipient text NOT NULL
)

-- name: outlived
CREATE TABLE IF NOT EXISTS tierkeeper.outlived (
    object text        PRIMARY KEY,
    since  timestamptz NOT NULL DEFAULT clock_timestamp()
)

-- name: thaw
CREATE TABLE IF NOT EXISTS tierkeeper.thaw (
    segment    uuid        PRIMARY KEY,
    batch      uuid        NOT NULL UNIQUE,
    held_until timestamptz NOT NULL
)

-- name: replaced
CREATE TABLE IF NOT EXISTS tierkeeper.replaced (
    segment uuid   PRIMARY KEY,
    by      uuid   NOT NULL UNIQUE,
    erased  bigint NOT NULL
)
