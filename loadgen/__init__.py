"""Drives an HTTP endpoint with request streams of controlled arrivals and lengths, and records what came back.

Knows endpoints and tokens; knows nothing of GPUs, energy or the processes that serve.
"""
