"""The checkpoint: where it lies, where its states are read, and how it is left as it was found."""
