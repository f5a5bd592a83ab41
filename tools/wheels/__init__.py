"""Wheels for machines other than this one."""
