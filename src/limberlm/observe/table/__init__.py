"""The geometry table: on disk, with what was measured beside it, and two of them compared."""
