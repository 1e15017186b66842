"""Choosing a method's regularisation without truth: what is measured on a map, the rules, and the sweep over candidates."""
