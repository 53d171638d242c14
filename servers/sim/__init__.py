"""A simulated engine on a simulated GPU: continuous batching over a roofline, speaking vLLM's dialect.

It knows neither load generation nor profiling, and what judges its energy may not know it.
"""
