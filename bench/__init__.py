"""Figures, side by side with what a user would take instead, as ratios in one run."""
