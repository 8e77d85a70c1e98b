"""Job after job, in this process or in several."""
