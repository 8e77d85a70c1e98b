"""The run directory: what is there, who is at work in it, and what can go."""
