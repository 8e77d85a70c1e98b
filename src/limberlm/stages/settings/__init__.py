"""TRL's own settings: by name in a study, or in TRL's YAML; and what a study decides for itself."""
