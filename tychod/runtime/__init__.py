"""What runs: threads, the control socket, the state on disk and talk with systemd."""
