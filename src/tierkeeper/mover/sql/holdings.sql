-- name: pieces
-- The heap in pieces of {step} pages: for each that holds rows of the selection its first page, their number, their bytes
-- and what the widest of them may have. The user's table keeps its own name, which a condition may say: ours must be no table's.
SELECT tierkeeper_piece.page, found.rows, {step} * block.bytes + found.toasted_bytes, found.widest
FROM (SELECT current_setting('block_size')::bigint) AS block (bytes)
CROSS JOIN LATERAL generate_series(0, pg_relation_size({regclass}::regclass) / block.bytes - 1, {step}) AS tierkeeper_piece (page)
CROSS JOIN LATERAL (
    SELECT count(*), {toasted}::bigint, max({widest})
    FROM ONLY {table}
    WHERE ctid >= ('(' || tierkeeper_piece.page || ',0)')::tid AND ctid < ('(' || tierkeeper_piece.page + {step} || ',0)')::tid AND {eligible}
) AS found (rows, toasted_bytes, widest)
WHERE found.rows > 0
ORDER BY tierkeeper_piece.page

-- name: next_bound
-- No column is given a name here: one of the key's may have it.
SELECT {columns}, count(*) OVER ()
FROM (SELECT {names} FROM {table} WHERE {here} AND {eligible} ORDER BY {order} LIMIT {limit}) AS page
ORDER BY {backwards} LIMIT 1

-- name: weigh
SELECT count(*), {sizes}
FROM (SELECT {names} FROM {table} WHERE {here} AND {eligible} {first}) AS page
