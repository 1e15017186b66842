"""Losses, the Lightning module, callbacks and exported weights."""
