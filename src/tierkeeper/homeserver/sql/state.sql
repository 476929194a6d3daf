CREATE TABLE IF NOT EXISTS token (
    id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, role TEXT NOT NULL, hash BLOB NOT NULL, created_at REAL NOT NULL,
    expires_at REAL NOT NULL, quota_bytes INTEGER, revoked_at REAL
) STRICT;

-- What the server knows of an object beside its bytes: who put it, when it was last read whole, what was found wrong.
CREATE TABLE IF NOT EXISTS object (
    key TEXT PRIMARY KEY, bytes INTEGER NOT NULL, token TEXT, put_at REAL NOT NULL, read_at REAL, wrong TEXT,
    deleting INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

CREATE INDEX IF NOT EXISTS object_by_reading ON object (coalesce(read_at, put_at));

CREATE TABLE IF NOT EXISTS upload (
    token TEXT NOT NULL, key TEXT NOT NULL, bytes INTEGER NOT NULL, started_at REAL NOT NULL, PRIMARY KEY (token, key)
) STRICT, WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS scrub (only_row INTEGER PRIMARY KEY CHECK (only_row = 1), at REAL NOT NULL, owed_bytes REAL NOT NULL) STRICT;

CREATE TABLE IF NOT EXISTS audit (
    id INTEGER PRIMARY KEY, at REAL NOT NULL, actor TEXT NOT NULL, verb TEXT NOT NULL, subject TEXT NOT NULL, kind TEXT NOT NULL,
    detail TEXT NOT NULL
) STRICT;
