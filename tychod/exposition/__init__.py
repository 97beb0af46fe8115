"""Metrics: one snapshot as the text that Prometheus reads."""

from tychod.exposition.render import Exposition
from tychod.exposition.scrape import Scrape

__all__ = ["Exposition", "Scrape"]
