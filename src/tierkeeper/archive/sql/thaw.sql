-- name: frozen
-- The table's segments that meet the ages, with all that are tied to them; those of one bundle beside each other.
WITH counting AS (
    SELECT s.*, l.seq, coalesce(b.bundle, s.batch) AS tied
    FROM tierkeeper.segment AS s
    JOIN tierkeeper.ledger AS l ON l.batch = s.batch
    LEFT JOIN tierkeeper.bundle AS b ON b.batch = s.batch
    WHERE s.state IN ('copied', 'sealed')
), wanted AS (
    SELECT tied, min(position) AS at FROM counting
    WHERE schema_name = %(schema)s AND table_name = %(table)s
      AND (%(segment)s::uuid IS NULL OR id = %(segment)s)
      AND (%(since)s::timestamptz IS NULL OR max_age IS NULL OR max_age >= %(since)s)
      AND (%(until)s::timestamptz IS NULL OR min_age IS NULL OR min_age < %(until)s)
    GROUP BY tied
)
SELECT c.tied, c.id, c.schema_name, c.table_name, c.age, c.rows, c.bytes, c.sha256, c.min_age, c.max_age, c.created_at
FROM counting AS c JOIN wanted AS w USING (tied)
ORDER BY w.at, c.seq

-- name: thawed
INSERT INTO tierkeeper.thaw (segment, batch, held_until) VALUES (%(segment)s, %(batch)s, %(held_until)s)
ON CONFLICT (segment) DO NOTHING

-- name: left_unsaid
SELECT s.id, s.manifest, t.batch, t.held_until
FROM tierkeeper.thaw AS t JOIN tierkeeper.segment AS s ON s.id = t.segment
WHERE s.state = 'removed' AND s.removal_object IS NULL
ORDER BY s.position

-- name: held
SELECT s.schema_name, s.table_name, clock_timestamp(), s.min_age, s.max_age, t.held_until
FROM tierkeeper.thaw AS t JOIN tierkeeper.segment AS s ON s.id = t.segment
WHERE (s.schema_name, s.table_name) IN (SELECT * FROM unnest(%(schemas)s::text[], %(names)s::text[]))
ORDER BY s.position

-- name: marker_reenter
INSERT INTO tierkeeper.marker (batch, seq, destination, schema_name, table_name, state, settled_at)
SELECT %(batch)s, s.position, 'main', s.schema_name, s.table_name, 'moved', clock_timestamp()
FROM tierkeeper.segment AS s WHERE s.id = %(segment)s
