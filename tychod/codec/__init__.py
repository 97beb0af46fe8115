"""Declared values <-> bytes: what recordings are made of."""
