"""tychod: the energy of a Linux node, attributed to what used it."""

__version__ = "0.1.0"
