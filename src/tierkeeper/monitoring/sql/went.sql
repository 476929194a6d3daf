-- name: begin
INSERT INTO tierkeeper.went (job) SELECT unnest(%(jobs)s::text[]) ON CONFLICT (job) DO NOTHING

-- name: ended
INSERT INTO tierkeeper.went AS w (job, ok_at, cause)
VALUES (%(job)s, CASE WHEN %(cause)s::text IS NULL THEN clock_timestamp() END, %(cause)s)
ON CONFLICT (job) DO UPDATE SET ok_at = coalesce(excluded.ok_at, w.ok_at), cause = excluded.cause

-- name: read
SELECT job, since, ok_at, cause FROM tierkeeper.went
