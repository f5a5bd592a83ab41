"""Measurements of nadam-xla against what a user would pick instead."""
