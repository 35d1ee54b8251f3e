"""A simulated GPU, and what is tried on it. It must be loaded before torch is imported: see `__main__`."""
