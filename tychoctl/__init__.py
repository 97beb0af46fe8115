"""tychoctl: asks tychod over its socket and prints the answers."""
