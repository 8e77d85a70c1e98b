"""Studies as they were run: settings for `limber run`, and comparisons that need a script."""
