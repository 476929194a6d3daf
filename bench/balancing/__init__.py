"""Balancers side by side under open-loop load, with a backend that falls ill."""
