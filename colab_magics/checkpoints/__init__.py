"""Checkpoints: committed whole, verified before use, kept by rule, copied to a durable store. Needs no torch."""
