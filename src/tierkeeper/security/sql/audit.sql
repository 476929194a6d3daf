-- name: note
INSERT INTO tierkeeper.audit (actor, action, kind, verb, subject, detail)
VALUES (%(actor)s, %(action)s, %(kind)s, %(verb)s, %(subject)s, %(detail)s::jsonb)

-- name: last_runs
-- An outcome says how it went, its intent where the rows were to go.
WITH newest AS MATERIALIZED (SELECT * FROM tierkeeper.audit ORDER BY id DESC LIMIT %(limit)s),
     went AS (
       SELECT o.verb, o.subject, coalesce(i.detail ->> 'to', '') AS destination, o.at, o.id, 
              coalesce(
                o.detail ->> 'failed',
                CASE WHEN o.detail -> 'errors' > '0'
                     THEN (o.detail ->> 'errors') || ' had to wait' || coalesce(': ' || (o.detail ->> 'why'), '') END
              ) AS failed
       FROM newest AS o JOIN newest AS i ON i.action = o.action AND i.kind = 'intent'
       WHERE o.kind = 'outcome'
     ),
     ok AS (SELECT verb, subject, destination, max(id) AS id, max(at) AS at FROM went WHERE failed IS NULL GROUP BY 1, 2, 3)
SELECT w.verb, w.subject, w.destination, ok.at,
       max(w.at) FILTER (WHERE w.failed IS NOT NULL AND w.id > coalesce(ok.id, 0)),
       (array_agg(w.failed ORDER BY w.id DESC) FILTER (WHERE w.failed IS NOT NULL AND w.id > coalesce(ok.id, 0)))[1],
       min(w.at)
FROM went AS w LEFT JOIN ok USING (verb, subject, destination)
GROUP BY w.verb, w.subject, w.destination, ok.at, ok.id

-- name: intended
SELECT EXISTS (
  SELECT FROM tierkeeper.audit
  WHERE kind = 'intent' AND verb = %(verb)s AND subject = %(subject)s AND detail @> %(detail)s::jsonb
)

-- name: last_outcome
SELECT detail
FROM (SELECT * FROM tierkeeper.audit ORDER BY id DESC LIMIT %(limit)s) AS newest
WHERE kind = 'outcome' AND verb = %(verb)s AND subject = %(subject)s
  AND at > clock_timestamp() - make_interval(secs => %(seconds)s)
ORDER BY id DESC LIMIT 1

-- name: last_actions
-- Of an intent's details only where rows were to go: the rest may quote what the user wrote, and a setup's is long.
WITH newest AS MATERIALIZED (SELECT * FROM tierkeeper.audit ORDER BY id DESC LIMIT %(limit)s)
SELECT coalesce(o.id, i.id), i.at, i.actor, i.verb, i.subject, i.detail ->> 'from', i.detail ->> 'to', o.at,
       CASE WHEN jsonb_typeof(o.detail -> 'rows') = 'number' THEN (o.detail ->> 'rows')::bigint END,
       o.detail ->> 'stopped_because', o.detail ->> 'failed',
       CASE WHEN jsonb_typeof(o.detail -> 'errors') = 'number' THEN (o.detail ->> 'errors')::bigint END
FROM newest AS i LEFT JOIN newest AS o ON o.action = i.action AND o.kind = 'outcome'
WHERE i.kind = 'intent'
ORDER BY i.id DESC
