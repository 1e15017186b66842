"""Samples without anatomy: simple bodies and noise, in a mask about as large as a brain."""
