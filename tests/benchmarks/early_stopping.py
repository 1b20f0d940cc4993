"""What early stopping does to soups: random search, ASHA, and ASHA whose stopped trials are ingredients too.

    python tests/benchmarks/early_stopping.py                                             # the digits, several seeds
    python tests/benchmarks/early_stopping.py --config cifar10-small-vit --seeds 0        # CIFAR-10, an hour

All sweeps of a seed have the same trials, those with ASHA one at a time, so that it decides the same in every call.
What it decides does not depend on what becomes of a stopped trial, so one sweep serves both: with `soup.leave_out` its
soups are made again without them. The cost is told in trained images, which does not depend on what runs beside.
Trials that are done are not trained again. Writes `results/early_stopping-CONFIG.json`: by variant and seed what the
sweep cost, how its trials ended, what greedy and MEHL-Soup+ came to; prints a table of means.
"""

import argparse
from pathlib import Path
from statistics import mean
from typing import Any

from evidence import DATA, LABELS, read_sweep, run
from recording import record

ASHA = ("search.scheduler=asha", "search.keep_stopped=true", "search.cpus_per_trial=2")  # of two cores: one at a time
RANDOM, WITHOUT, KEPT = VARIANTS = ("random", "asha", "asha, kept")
METHODS = ("best-individual", "greedy", "mehl-plus")
ALIKE = ("--stages=search,soup", f"soup.methods=[{', '.join(METHODS)}]")
CIFAR10 = (
    "data.train={data}/cifar10_train.parquet",
    "data.test={data}/cifar10_test.parquet",
    "model.pretrained={data}/theta0-small-vit.safetensors",
    "search.num_trials=12",
    "search.precision=float32",  # in bfloat16 a processor without arithmetic of its own for it takes many times as long
    "soup.settings.mehl-plus.precision=float32",
)
CONFIGS = {"digits": (), "cifar10-small-vit": CIFAR10}


def main() -> None:
    """Run what is not done, record, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", choices=CONFIGS, default="digits")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--data", type=Path, default=DATA, help="folder of CIFAR-10's files and the weights")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs (default: %(default)s)")
    options = parser.parse_args()
    sweeps = []
    for seed in options.seeds:
        found = {RANDOM: swept(options, seed, RANDOM), KEPT: swept(options, seed, "asha", *ASHA)}
        stopped = found[KEPT]["stopped"]
        found[WITHOUT] = {**swept(options, seed, "asha", *ASHA, f"soup.leave_out={stopped}"), "stopped": stopped}
        sweeps += [{"variant": variant, "seed": seed, **found[variant]} for variant in VARIANTS]
    record(f"early_stopping-{options.config}", config=options.config, sweeps=sweeps)
    print(table(sweeps))


def swept(options: argparse.Namespace, seed: int, name: str, *settings: str) -> dict[str, Any]:
    """The `outcome` of a sweep with these settings."""
    folder = options.runs / f"early-{options.config}-{name}-{seed}"
    files = [setting.format(data=options.data.absolute()) for setting in CONFIGS[options.config]]
    run(options.config, folder, f"name={folder.name}", f"seed={seed}", *ALIKE, *files, *settings)
    return outcome(folder)


def outcome(folder: Path) -> dict[str, Any]:
    """What a sweep cost, how its trials ended, and what its soups came to, in %."""
    sweep = read_sweep(folder)
    return {
        "images": sum(row.images_seen for row in sweep.ingredients),
        "stopped": [row.trial_index for row in sweep.ingredients if row.status == "stopped"],
        "ingredients": sum(row.is_ingredient for row in sweep.ingredients),
        "soups": {
            name: {split: 100 * float(getattr(row, f"{split}_score")) for split in ("select", "test")}
            for name, row in sweep.soups.items()
        },
    }


def table(sweeps: list[dict[str, Any]]) -> str:
    """A row a variant: means over the seeds."""
    heads = [f"{LABELS[method]}: select %, test %" for method in METHODS]
    measures = "thousand images | stopped | ingredients"
    lines = [f"| | {measures} | {' | '.join(heads)} |", f"|{'---|' * (4 + len(METHODS))}"]
    for variant in VARIANTS:
        rows = [sweep for sweep in sweeps if sweep["variant"] == variant]
        counts = ([row["images"] / 1000, len(row["stopped"]), row["ingredients"]] for row in rows)
        cells = [f"{mean(values):.1f}" for values in zip(*counts, strict=True)]
        for method in METHODS:
            values = [mean(row["soups"][method][split] for row in rows) for split in ("select", "test")]
            cells.append(", ".join(f"{value:.2f}" for value in values))
        lines.append(f"| {variant} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
