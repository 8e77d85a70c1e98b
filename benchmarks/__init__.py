"""What measuring costs, as ratios against an alternative measured side by side in one run: `make bench`."""
