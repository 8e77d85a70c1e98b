"""Task after task, in this process or in several."""
