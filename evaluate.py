"""Score methods on scans: `python evaluate.py --help`, configs/evaluate.yaml."""

from qsmdl.cli.evaluate import main

if __name__ == "__main__":
    main()
