"""Metrics: one snapshot as the text that Prometheus reads."""
