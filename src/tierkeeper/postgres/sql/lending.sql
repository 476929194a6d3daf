-- name: pid
-- A pooler tells its client another number than that of the process which happens to serve it.
SELECT pg_catalog.pg_backend_pid()

-- name: renew
-- What DISCARD ALL is made of, in one message. A role that its user gets at login is not undone by it, and is taken up again.
CLOSE ALL;
RESET SESSION AUTHORIZATION;
RESET ALL;
RESET ROLE;
DEALLOCATE ALL;
UNLISTEN *;
SELECT pg_catalog.pg_advisory_unlock_all();
DISCARD PLANS;
DISCARD TEMP;
DISCARD SEQUENCES;
SELECT pg_catalog.pg_stat_force_next_flush()
