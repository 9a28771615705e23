"""Adapters to other projects; each needs the project's package, which is an extra."""
