"""Classical dipole inversions: plain functions from a field map to a susceptibility map, composed from a few building blocks."""
