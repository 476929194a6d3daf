-- name: heaps
-- As they are called now, whatever the snapshot says.
SELECT heap::oid::bigint,
       parse_ident(heap::text),
       ARRAY(SELECT parse_ident(relid::text) FROM pg_partition_ancestors(heap) WHERE relid <> heap)
FROM unnest(%(heaps)s::bigint[]::oid[]::regclass[]) AS heap
