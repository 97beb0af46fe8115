"""A stand-in for the library of the NVIDIA driver."""
