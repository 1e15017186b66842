"""Operators and signal models: Fourier, dipole, derivatives, multi-echo signal, field maps. All operators have exact adjoints."""
