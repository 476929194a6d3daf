"""Sets the tiers up and checks them: what is missing is planned as values, shown, and applied. It moves no row."""
