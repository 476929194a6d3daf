-- name: heaps
-- As they are called now, whatever the snapshot says, and with their schema, whatever the path is: one of the user's finds tables.
SELECT heap::bigint,
       (pg_identify_object_as_address('pg_class'::regclass, heap, 0)).object_names,
       ARRAY(
         SELECT (pg_identify_object_as_address('pg_class'::regclass, relid, 0)).object_names
         FROM pg_partition_ancestors(heap::regclass) WHERE relid <> heap
       )
FROM unnest(%(heaps)s::bigint[]::oid[]) AS heap
