-- name: replaced
INSERT INTO tierkeeper.replaced (segment, by, erased) VALUES (%(segment)s, %(by)s, %(erased)s) ON CONFLICT (segment) DO NOTHING

-- name: replaced_unsaid
SELECT old.id, old.manifest, new.id, new.manifest, r.erased
FROM tierkeeper.replaced AS r
JOIN tierkeeper.segment AS old ON old.id = r.segment
JOIN tierkeeper.segment AS new ON new.id = r.by
WHERE old.removal_object IS NULL
ORDER BY new.position

-- name: removed_unsaid
-- Their time was over. Of those that went up or were replaced their own words are put.
SELECT s.id, s.manifest FROM tierkeeper.segment AS s
WHERE s.state = 'removed' AND s.removal_object IS NULL
  AND NOT EXISTS (SELECT FROM tierkeeper.thaw AS t WHERE t.segment = s.id)
  AND NOT EXISTS (SELECT FROM tierkeeper.replaced AS r WHERE r.segment = s.id)
ORDER BY s.position

-- name: young
SELECT s.id
FROM tierkeeper.segment AS s JOIN tierkeeper.ledger AS l ON l.batch = s.batch
WHERE s.id = ANY (%(segments)s) AND s.state IN ('copied', 'sealed') AND (l.state <> 'forgotten' OR s.commit_object IS NULL)
LIMIT 1

-- name: under_way
SELECT EXISTS (SELECT FROM tierkeeper.ledger WHERE state = 'open')
