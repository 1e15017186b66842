"""Training data simulated on the fly, validation phantoms, and the Lightning DataModule."""
