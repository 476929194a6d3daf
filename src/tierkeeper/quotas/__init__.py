"""Keeps each tier inside its quota: measures, moves by policy, moves early where that is not enough, returns the space."""
