"""The probe: texts in, token sequences out, the same for every checkpoint."""
