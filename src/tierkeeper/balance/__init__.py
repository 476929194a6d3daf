"""Balance: is a service well, and is it asked without harm. It chooses nothing about rows and knows no configuration."""
