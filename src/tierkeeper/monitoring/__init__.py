"""What the tiers hold and how busy they are, over time, and who is told when something needs a person."""
