-- name: older
SELECT EXISTS (SELECT FROM {table} AS t WHERE isfinite(t.{age}) AND t.{age} < {before}::timestamptz)
