"""Launches, watches and stops serving engines, or attaches to one that runs; holds the simulated engine.

Knows nothing of load generation or of energy accounting.
"""
