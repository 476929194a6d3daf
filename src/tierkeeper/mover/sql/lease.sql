-- name: holder
SELECT holder FROM tierkeeper.lease WHERE name = %(name)s

-- name: take
INSERT INTO tierkeeper.lease AS l (name, holder, expires_at)
VALUES (%(name)s, %(holder)s, clock_timestamp() + make_interval(secs => %(seconds)s))
ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, expires_at = excluded.expires_at
WHERE l.expires_at < clock_timestamp() OR l.holder = %(holder)s OR l.holder = %(dead)s

-- name: give_back
DELETE FROM tierkeeper.lease WHERE name = %(name)s AND holder = %(holder)s
