"""Mayastor of today, by the REST API of its control plane."""
