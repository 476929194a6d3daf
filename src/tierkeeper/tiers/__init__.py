"""A tier: its address, its provider's rules, how full it is, who it says it is. It moves nothing."""
