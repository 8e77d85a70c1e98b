"""What every metric is shown: synthetic states, predictions, units and updates, and deformations of them."""
