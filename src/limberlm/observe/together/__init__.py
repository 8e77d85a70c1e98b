"""One checkpoint measured by several processes: who reads what, who summarises what, and what they send each other."""
