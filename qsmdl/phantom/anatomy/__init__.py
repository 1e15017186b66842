"""Anatomy: the procedural head with its veins, and phantoms from a user's label maps."""
