"""Train a network on simulated phantoms and score it: `python train.py --help`, configs/train.yaml."""

from qsmdl.cli.train import main

if __name__ == "__main__":
    main()
