"""Clients that send one completion request and stamp everything that comes back."""
