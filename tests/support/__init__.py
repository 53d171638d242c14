"""Doubles and recordings that several tests share."""
