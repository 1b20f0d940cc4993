"""Small records of a made-up run, for the tests of the report."""

import base64
import io
import math
import random
from dataclasses import replace
from itertools import combinations

from PIL import Image

from pipeline.records import (
    RECORDS_VERSION,
    CoefficientRecord,
    ComparisonRecord,
    ConfusionRecord,
    CostRatioRecord,
    CostRecord,
    ExampleRecord,
    IngredientRecord,
    LossRecord,
    RecordedRuns,
    RunRecord,
    RunResults,
    SimilarityRecord,
    SoupRecord,
    SplitRecord,
    VariantRecord,
    cumulative_gpu_hours,
)

LABELS = {
    "best-individual": "Best individual",
    "uniform": "Uniform soup",
    "greedy": "Greedy soup",
    "hl": "HL-Soup",
    "mehl": "MEHL-Soup",
    "mehl-plus": "MEHL-Soup+",
    "ensemble": "Ensemble",
}
SPLITS = {"pretrain": 300, "train": 500, "fit": 400, "select": 100, "test": 497}


def a_run(**changes) -> RunRecord:
    values = {
        "records_version": RECORDS_VERSION,
        "name": "digits",
        "sweep_id": "20260730-0a1b2c",
        "seed": 0,
        "started": "2026-07-30T09:15:42+00:00",
        "git_commit": "0123456789abcdef0123456789abcdef01234567",
        "versions": {"python": "3.11.9", "torch": "2.11.0", "ray": "2.60.0", "mlflow": "3.17.0"},
        "machine": "2 cores of an Intel Xeon, no GPU",
        "class_names": [str(digit) for digit in range(10)],
        "splits": [SplitRecord(name=n, size=s, indices_sha256=f"{s:064x}") for n, s in SPLITS.items()],
        "theta0_sha256": "ab" * 32,
        "theta0_gpu_hours": 0.0031,
        "theta0_test_accuracy": 0.6137,
        "theta0_val_accuracy": 0.6225,
        "theta0_select_accuracy": 0.62,
        "champion": "mehl-plus",
        "labels": LABELS,
    }
    return RunRecord(**(values | changes))


def an_ingredient(index: int = 0, **changes) -> IngredientRecord:
    values = {
        "trial_index": index,
        "status": "finished",
        "val_accuracy": 0.91,
        "select_accuracy": 0.9,
        "test_accuracy": 0.9,
        "gpu_hours": 0.0015,
        "attempts": 1,
        "images_seen": 4000,
        "peak_memory_bytes": None,
        "device": "cpu",
        "sha256": f"{index:064x}",
        "theta0_sha256": "ab" * 32,
        "path": f"file:///runs/digits/ingredients/{index}.safetensors",
        "model_version": index + 1,
        "lr": 3.2e-4,
        "weight_decay": 0.01,
        "epochs": 8,
        "batch_size": 64,
        "label_smoothing": 0.05,
        "mixup": 0.0,
        "augmentation": "randaugment",
        "randaugment_m": 9,
        "randaugment_n": 2,
        "seed": index,
    }
    return IngredientRecord(**(values | changes))


def a_failure(index: int, reason: str, status: str = "failed", **changes) -> IngredientRecord:
    missing = ("val_accuracy", "select_accuracy", "test_accuracy", "sha256", "path", "model_version")
    return an_ingredient(index, status=status, reason=reason, attempts=3, **dict.fromkeys(missing), **changes)


def a_sweep(size: int = 18, device: str = "cpu", hours: float = 0.0015) -> list[IngredientRecord]:
    """A sweep whose trials 5 and 11 gave no ingredient."""
    draw = random.Random(0)
    rows = []
    for index in range(size):
        if index == 5:
            rows.append(a_failure(index, "out of memory after 3 attempts; lower batch_size", device=device))
        elif index == 11:
            rows.append(a_failure(index, "loss is not finite in epoch 2 (lr 0.03)", "rejected", device=device))
        else:
            accuracy = 0.95 - 0.12 * draw.random() ** 2
            rows.append(
                an_ingredient(
                    index,
                    device=device,
                    gpu_hours=hours * (0.6 + draw.random()),
                    val_accuracy=round(accuracy * 400) / 400,
                    select_accuracy=round(accuracy * 100) / 100,
                    test_accuracy=round((accuracy - 0.02 * draw.random()) * 497) / 497,
                    lr=10 ** -draw.uniform(3, 5),
                    augmentation=draw.choice(["minimal", "randaugment"]),
                )
            )
    return rows


def a_soup(method: str = "greedy", **changes) -> SoupRecord:
    values = {
        "method": method,
        "num_ingredients": 16,
        "num_selected": 5,
        "val_accuracy": 0.96,
        "select_accuracy": 0.95,
        "test_accuracy": 0.945,
        "gpu_hours": 0.0271,
        "construction_seconds": 4.2,
        "epochs": 0.0,
        "peak_memory_bytes": 120 * 2**20,
        "peak_memory_kind": "anon",
    }
    return SoupRecord(**(values | changes))


def the_soups() -> list[SoupRecord]:
    return [
        a_soup("best-individual", num_selected=1, val_accuracy=0.95, test_accuracy=0.9396, construction_seconds=0.02),
        a_soup("uniform", num_selected=16, val_accuracy=0.935, select_accuracy=0.92, test_accuracy=0.9276),
        a_soup("greedy"),
        a_soup("mehl", num_selected=16, val_accuracy=0.965, test_accuracy=0.9477, construction_seconds=31.4, epochs=5),
        a_soup(
            "mehl-plus",
            num_selected=16,
            val_accuracy=0.9775,
            select_accuracy=0.97,
            test_accuracy=0.9557,
            construction_seconds=83.4,
            peak_memory_bytes=int(1.3 * 2**30),
        ),
        a_soup("ensemble", num_selected=16, test_accuracy=0.9537, peak_memory_bytes=900 * 2**20),
    ]


def the_comparisons(images: int = 497) -> list[ComparisonRecord]:
    """The champion beats the best individual trial by 8 images of 20 on which they differ."""
    pairs = list(combinations([soup.method for soup in the_soups()], 2))
    return [
        ComparisonRecord(
            method=one, baseline=other, difference=-8 / images, low=-17 / images, high=1 / images, wins=6, losses=14,
            p_value=0.115, p_adjusted=0.62,
        )
        for one, other in pairs
    ]  # fmt: skip


def the_costs(ingredients: list[IngredientRecord], order_seed: int | None = None) -> list[CostRecord]:
    finished = sum(row.status == "finished" for row in ingredients)
    rows = []
    for number in range(4, finished + 1, 4):
        for method, base, rise in (("greedy", 0.925, 0.008), ("mehl-plus", 0.931, 0.0105)):
            accuracy = base + rise * math.log2(number / 2)
            rows.append(
                CostRecord(
                    method=method,
                    num_ingredients=number,
                    gpu_hours=cumulative_gpu_hours(ingredients, number),
                    val_accuracy=accuracy + 0.01,
                    select_accuracy=accuracy,
                    test_accuracy=accuracy,
                    order_seed=order_seed,
                )
            )
    return rows


def the_results(**changes) -> RunResults:
    """A run with everything recorded, with the given tables in place of the made-up ones."""
    ingredients = changes.get("ingredients", a_sweep())
    values = {
        "run": a_run(),
        "ingredients": ingredients,
        "soups": the_soups(),
        "coefficients": {  # the ensemble has none
            **{method: the_coefficients(("model",), 0) for method in ("best-individual", "uniform", "greedy", "mehl")},
            "mehl-plus": the_coefficients(("a", "b", "c"), 0.2),
        },
    }
    studies = {
        "cost_accuracy": the_costs(ingredients),
        "cost_ratios": [a_ratio()],
        "comparisons": the_comparisons(),
        "elimination": [a_variant(m, "eliminated", n) for m in ("greedy", "mehl-plus") for n in (0, 2, 8)],
        "ablation": [
            *(a_variant("mehl-plus", "block_size", value, is_default=value == "18") for value in ("18", "2", "none")),
            *(a_variant("mehl-plus", "seed", value, test_accuracy=0.9 + value / 100) for value in (0, 1, 2)),
        ],
        "wise_ft": [a_variant("greedy", "alpha", alpha, test_accuracy=0.7 + alpha / 5) for alpha in (0.0, 0.5, 1.0)],
        "similarity": [
            SimilarityRecord(trial_index=i, other_index=j, weights=0.998, from_mean=-0.1, from_theta0=0.2)
            for i, j in combinations(range(6), 2)
        ],
    }
    own = {name: value for name, value in changes.items() if name in values}
    return RunResults(**(values | own), studies=studies | {k: v for k, v in changes.items() if k not in own})


def a_variant(method: str, setting: str, value, **changes) -> VariantRecord:
    soup = a_soup(method).model_dump(exclude={"gpu_hours"})
    own = {"setting": setting, "value": str(value), "is_default": False, "predictions": "predictions/x.parquet"}
    return VariantRecord(**(soup | own | changes))


def a_ratio(**changes) -> CostRatioRecord:
    values = {
        "method": "mehl-plus", "baseline": "greedy", "best_accuracy": 0.9557, "baseline_best_accuracy": 0.949,
        "accuracy": 0.949, "gpu_hours": 0.01, "baseline_gpu_hours": 0.025,
        "orders": 1, "ratio": 2.5, "low": 1.0, "high": 4.0,
    }  # fmt: skip
    return CostRatioRecord(**(values | changes))


def the_coefficients(layers: tuple[str, ...], spread: float, count: int = 6) -> list[CoefficientRecord]:
    return [
        CoefficientRecord(trial_index=k, layer=layer, coefficient=1 / count + spread * (-1) ** k * (place + 1))
        for k in range(count)
        for place, layer in enumerate(layers)
    ]


def confused(method: str, *rows: tuple[int, int, int]) -> list[ConfusionRecord]:
    """Of a method, from rows of true class, predicted class and number of images."""
    return [ConfusionRecord(method=method, label=a, prediction=b, images=n) for a, b, n in rows]


def an_example(index: int, prediction: int, baseline: int, **changes) -> ExampleRecord:
    values = {
        **{"method": "mehl-plus", "baseline": "best-individual", "image_index": index, "label": 3},
        **{"prediction": prediction, "baseline_prediction": baseline},
        **{"media_type": "image/png", "content": a_picture()},
    }
    return ExampleRecord(**(values | changes))


def a_picture() -> str:
    """A small one, as records hold it."""
    file = io.BytesIO()
    Image.linear_gradient("L").resize((8, 8)).save(file, "png")
    return base64.b64encode(file.getvalue()).decode()


def the_losses(blocks: int, steps: int) -> list[LossRecord]:
    return [LossRecord(step=i, block=i // steps, loss=2.0 - i / (blocks * steps)) for i in range(blocks * steps)]


def the_page_in_full() -> RunResults:
    """A run whose report has every section: orders of the trials, classes, examples, losses, links to MLflow."""
    sweep = a_sweep()
    right = [(c, c, 45 + c) for c in range(10)]
    links = RecordedRuns(
        tracking_uri="https://mlflow.example",
        experiment_id="7",
        soups={soup.method: soup.method for soup in the_soups()},
        trials={row.trial_index: str(row.trial_index) for row in sweep},
    )
    results = the_results(
        run=a_run(recorded=links),
        cost_accuracy=[*the_costs(sweep), *(row for seed in (1, 2, 3) for row in the_costs(sweep, order_seed=seed))],
        confusions=[
            *confused("mehl-plus", *right, (0, 6, 2), (3, 8, 1)),
            *confused("best-individual", *right, (0, 6, 1), (3, 5, 4), (9, 4, 2)),
        ],
        examples=[*(an_example(i, 3, 5) for i in range(7, 15)), *(an_example(i, 8, 3) for i in range(40, 44))],
    )
    return replace(results, losses={"mehl": the_losses(2, 40), "mehl-plus": the_losses(3, 60)})
