"""Moves rows between tiers so that none is lost, doubled or overwritten (design section 4).

`model` and `plan` decide and are pure; `source` and `destination` are the two sides of a batch; `runner` drives them.
"""
