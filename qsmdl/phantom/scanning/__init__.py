"""How a phantom is scanned: protocols, the simulated scan, and everything that goes wrong in one."""
