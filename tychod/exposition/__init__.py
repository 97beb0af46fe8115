"""Metrics: one snapshot as the text that Prometheus reads."""

from tychod.exposition.render import NO_LIBRARY, Exposition, has_library
from tychod.exposition.scrape import Scrape

__all__ = ["NO_LIBRARY", "Exposition", "Scrape", "has_library"]
