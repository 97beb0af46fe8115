"""CPU time counted in the kernel: loaders of the programs, and the reader of their maps."""
