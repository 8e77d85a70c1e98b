"""What a run directory tells: tables over chains, and a chain's checkpoints."""
