"""What every room shares and nothing more: errors, limits, units, clock, names, results, ports, the fault hook.

It imports no room of the house and reaches no outside world.
"""
