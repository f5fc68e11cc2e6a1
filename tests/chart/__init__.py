"""The chart: what helm makes of it, whether an API server takes it, whether its schemas say what the code says."""
