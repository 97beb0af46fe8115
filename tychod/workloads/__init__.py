"""Identity: which container, pod or unit a cgroup's energy belongs to, and what it is called."""
