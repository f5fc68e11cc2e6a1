"""The exchanges recorded with a real control plane: reading them, and playing them again to the simulator."""
