"""Read and write clips with PyAV. Import the modules when a node runs: PyAV is slow to load."""
