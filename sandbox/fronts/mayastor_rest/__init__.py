"""A simulator of the REST API of Mayastor's control plane, over the one model of Mayastor."""
