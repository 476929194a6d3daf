"""What runs by itself: the schedule, and the workers that share its jobs."""
