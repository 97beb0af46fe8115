"""CPU time of cgroups as the kernel counts it."""
