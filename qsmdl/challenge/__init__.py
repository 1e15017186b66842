"""Judging: the metrics, the truth and the protocol of the QSM Reconstruction Challenge 2.0."""
