"""Scripts that a user would run."""
