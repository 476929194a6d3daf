"""The third tier: rows as encrypted, verified, restorable files in a store, with a catalog of them in Postgres."""
