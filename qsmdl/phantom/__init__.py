"""Phantoms, and how they are scanned: `anatomy`, `abstract` (samples without anatomy), `inclusions` (lesions and vessels) and `scanning`, on `tissue`
and `drawing`. Random code draws frozen parameters, deterministic code renders them.
"""
