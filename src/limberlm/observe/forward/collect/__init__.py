"""What one pass keeps: a collector per family of statistics, each given every site of every batch."""
