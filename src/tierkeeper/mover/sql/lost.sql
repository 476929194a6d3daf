-- name: word
INSERT INTO tierkeeper.marker (batch, seq, destination, schema_name, table_name, state, settled_at)
VALUES ({batch}, {seq}, {destination}, {schema}, {name}, 'moved', now())

-- name: copied_keys
SELECT jsonb_build_array({key})::text FROM {table} AS t
WHERE t.xmin = (SELECT copy_xid::xid FROM tierkeeper.ledger WHERE batch = {batch})
