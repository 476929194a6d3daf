-- name: whose
-- A pooler tells its client another number than that of the process which happens to serve it. What a trigger of the user's does
-- at each login cannot be done once more.
SELECT pg_catalog.pg_backend_pid() = {pid}
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_event_trigger WHERE evtevent = 'login' AND evtenabled <> 'D')

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
