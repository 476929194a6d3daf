-- name: live
-- Of this process and of others.
SELECT count(*) AS workers FROM procrastinate_workers WHERE last_heartbeat > now() - make_interval(secs => %(stalled)s)

-- name: left
SELECT job.id FROM procrastinate_jobs AS job LEFT JOIN procrastinate_workers AS worker ON worker.id = job.worker_id
WHERE job.id = ANY (%(ids)s)
  AND (job.status = 'todo' OR job.status = 'doing' AND worker.last_heartbeat > now() - make_interval(secs => %(stalled)s))

-- name: waiting
SELECT DISTINCT task_name FROM procrastinate_jobs WHERE status = 'todo' AND queue_name = ANY (%(queues)s)

-- name: is_empty
SELECT NOT EXISTS (
    SELECT FROM procrastinate_jobs AS job
    WHERE job.queue_name = %(queue)s
      AND (
        job.status = 'doing' AND job.worker_id = ANY (%(own)s::bigint[])
        OR job.status = 'todo' AND (job.scheduled_at IS NULL OR job.scheduled_at <= now())
           AND NOT EXISTS (SELECT FROM procrastinate_jobs AS other WHERE other.lock = job.lock AND other.status = 'doing')
      )
) AS is_empty

-- name: wake
UPDATE procrastinate_jobs AS job SET queue_name = %(queue)s, lock = task.lock, scheduled_at = least(scheduled_at, now())
FROM unnest(%(names)s::text[], %(locks)s::text[]) AS task (name, lock)
WHERE job.task_name = task.name AND job.queue_name = %(later)s AND job.status = 'todo'
  -- Nothing waits longer than an hour: what lies further ahead was scheduled by a clock that is.
  AND job.scheduled_at NOT BETWEEN now() + interval '1 microsecond' AND now() + interval '2 hours'
