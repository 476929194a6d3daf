-- name: newest
SELECT coalesce(max(seq), 0) FROM tierkeeper.ledger

-- name: moved
SELECT batch, rows, bytes FROM tierkeeper.ledger
WHERE seq > %(seq)s AND schema_name = %(schema)s AND table_name = %(name)s AND source = %(source)s
  AND state IN ('done', 'forgotten') AND batch <> ALL (%(known)s::uuid[])
ORDER BY seq
