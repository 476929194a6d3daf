-- name: note
INSERT INTO tierkeeper.audit (actor, action, kind, verb, subject, detail)
VALUES (%(actor)s, %(action)s, %(kind)s, %(verb)s, %(subject)s, %(detail)s::jsonb)
