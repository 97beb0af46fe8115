"""Accuracy against known truth: rules, oracle, table."""
