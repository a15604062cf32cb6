"""A Triton model repository: written from an artifact, inspected, and run by Triton's python backend."""
