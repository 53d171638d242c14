"""Joins engine, load and energy into one run: the only package that knows both sides."""

__version__ = "0.1.0"
