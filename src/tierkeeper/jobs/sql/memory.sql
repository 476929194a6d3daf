-- name: read
SELECT job, due_at FROM tierkeeper.schedule

-- name: begin
-- A job that nobody has known before is due from now on.
INSERT INTO tierkeeper.schedule (job, due_at)
SELECT unnest(%(jobs)s::text[]), %(now)s
ON CONFLICT (job) DO NOTHING

-- name: handled
INSERT INTO tierkeeper.schedule AS s (job, due_at) VALUES (%(job)s, %(due_at)s)
ON CONFLICT (job) DO UPDATE SET due_at = excluded.due_at WHERE s.due_at < excluded.due_at
   -- What a clock that was wrong has left there would keep the job from running until then.
   OR s.due_at > clock_timestamp() + interval '1 hour'
