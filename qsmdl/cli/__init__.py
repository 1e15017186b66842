"""The door: train.py, evaluate.py and the qsmdl command. The only part of the package that knows Hydra."""
