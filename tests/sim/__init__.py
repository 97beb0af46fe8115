"""Simulated machines: they stand behind the real interfaces, as directory trees and cgroups."""
