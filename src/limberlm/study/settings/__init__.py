"""The study file: what it may say, what is wrong with it, and what it means from anywhere."""
