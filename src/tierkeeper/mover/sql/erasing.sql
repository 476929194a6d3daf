-- name: try
-- What can be asked of a segment, too: its columns, by themselves or under the table's bare name.
SELECT FROM (SELECT {columns} FROM {table}) AS {name} WHERE {where} LIMIT 0

-- name: count
SELECT count(*) FROM {table} WHERE {where}

-- name: delete
DELETE FROM {table} WHERE {where}

-- name: matching
COPY (SELECT {where} IS TRUE FROM {table} AS {name}) TO STDOUT
