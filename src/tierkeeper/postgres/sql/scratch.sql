-- name: abandoned
SELECT d.datname::text FROM pg_database AS d
WHERE starts_with(d.datname, %(prefix)s) AND NOT EXISTS (SELECT FROM pg_stat_activity AS a WHERE a.datid = d.oid)
