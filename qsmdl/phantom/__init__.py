"""Procedural heads, and how they are scanned."""
