"""Telling: tables and figures of results."""
