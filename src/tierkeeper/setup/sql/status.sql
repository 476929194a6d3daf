-- name: in_flight
SELECT schema_name, table_name, count(*)
FROM tierkeeper.ledger
WHERE state IN ('open', 'copied')
GROUP BY schema_name, table_name

-- name: conflicts
SELECT schema_name, table_name, key::text
FROM tierkeeper.conflict
WHERE core_gone_at IS NULL
ORDER BY schema_name, table_name, found_at, key
LIMIT 1000
