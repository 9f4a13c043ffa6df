"""Shoal beside the limit of its own decode and model code, and beside other servers, in one interleaved run."""
