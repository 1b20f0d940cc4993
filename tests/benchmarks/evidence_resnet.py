"""The evidence study with BatchNorm: a ResNet-18 trained on five classes of CIFAR-10, soups on the other five.

    python tests/benchmarks/evidence_resnet.py

Cuts CIFAR-10 into two halves by class, trains a ResNet-18 from random weights on the first as a run of one trial, and
runs `configs/cifar10-small-resnet.yaml` on the second from there. Its records are kept in `results/evidence/`; what is
kept or done is not done again. Writes `results/evidence_resnet.json`.
"""

import argparse
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
from evidence import DATA, RECORDS, effects_of, keep, markdown, pooled, read_sweep, run
from recording import record

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CONFIG = "cifar10-small-resnet"
START = (
    "name=cifar10-resnet-start",
    f"data.class_names=[{', '.join(CLASSES[:5])}]",
    "data.train_size=22000",
    "data.validation_size=3000",
    "model.pretrained=null",
    "model.head=random",
    "search.num_trials=1",
    "search.cpus_per_trial=2",
    "search.distributions={lr: 1e-3, weight_decay: 0.05, label_smoothing: 0.1, epochs: 8, batch_size: 128, mixup: 0}",
    "soup.methods=[best-individual]",
)


def main() -> None:
    """Measure, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, help="folder of CIFAR-10's files")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs (default: %(default)s)")
    options = parser.parse_args()
    records = RECORDS / CONFIG
    if not records.exists():
        measure(options.data, options.runs.absolute(), records)
    sweeps = [read_sweep(records)]
    effects = effects_of(sweeps)
    record("evidence_resnet", config=CONFIG, start=START, effects_pp=effects, **pooled(sweeps))
    print(markdown(sweeps, effects))


def measure(data: Path, runs: Path, records: Path) -> None:
    """Cut the images, train the starting point, run the sweep from there, keep its records."""
    halves = runs / "cifar10-halves"
    for part in ("train", "test"):
        cut(data / f"cifar10_{part}.parquet", halves, part)
    run(CONFIG, runs / "cifar10-resnet-start", "--stages=search,soup", *images(halves, "first"), *START)
    weights = runs / "cifar10-resnet-start" / "soups" / "best-individual.safetensors"
    run(CONFIG, runs / CONFIG, *images(halves, "second"), f"model.pretrained={weights}")
    keep(runs / CONFIG, records)


def cut(source: Path, folder: Path, part: str) -> None:
    """Write the images of the first and of the last five classes as files of their own, labels from 0 on."""
    folder.mkdir(parents=True, exist_ok=True)
    table = pq.read_table(source)
    for half, first in (("first", 0), ("second", 5)):
        path = folder / f"{half}-{part}.parquet"
        if not path.exists():
            labels = table["label"]
            rows = table.filter(pc.and_(pc.greater_equal(labels, first), pc.less(labels, first + 5)))
            rows = rows.set_column(rows.schema.get_field_index("label"), "label", pc.subtract(rows["label"], first))
            pq.write_table(rows, path)


def images(halves: Path, half: str) -> list[str]:
    """The settings that name the images of a half."""
    return [f"data.{part}={halves / f'{half}-{part}.parquet'}" for part in ("train", "test")]


if __name__ == "__main__":
    main()
