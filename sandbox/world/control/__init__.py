"""Mayastor's control plane in the model: the operations that its REST API offers, and what it does by itself."""
