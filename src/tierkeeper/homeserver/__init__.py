"""The archive's HTTP server: keeps objects, proves that it keeps them, and never sees a key."""
