"""``python pipeline/run.py --config configs/NAME.yaml``: the command `run`, in the form that `ray job submit` takes."""

import sys
from pathlib import Path

if __package__ in (None, ""):
    # Run as a script, Python looks for modules in this folder; the package is one level up.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from pipeline.commands import main

if __name__ == "__main__":
    sys.exit(main(["run", *sys.argv[1:]]))
