"""Faults, on purpose: a cluster in network namespaces, load, and what must not be lost (``make chaos``)."""
