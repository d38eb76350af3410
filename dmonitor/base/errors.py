"""Failures that every program ends with a status of its own for."""


class StateError(Exception):
    """The state cannot be used; the text names the file and the reason."""
