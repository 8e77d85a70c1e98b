"""Stages that say what a difference between checkpoints could be due to besides what is taught."""
