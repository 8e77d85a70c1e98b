"""What stages changed in the weights: adapters or checkpoints in, one table out."""
