"""The pass: what is asked of it, what fits in memory, and the sums it keeps."""
