"""For tests only: arms the fault hook. Nothing that is shipped to users imports it."""
