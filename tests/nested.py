"""Nested dicts with some leaves changed."""


def merge(values: dict, changes: dict) -> dict:
    """`values` with the leaves of `changes` in place of the old ones."""
    return values | {key: merge(values[key], c) if isinstance(c, dict) else c for key, c in changes.items()}
