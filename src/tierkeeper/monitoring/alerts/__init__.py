"""Who is told, in time and once, when something needs a person: facts in, conditions out, and a memory of what was told."""
