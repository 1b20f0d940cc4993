"""Memory of 1, 2 and 4 trials at a time over one set of images: the images are there once per node, not once per trial.

    python tests/benchmarks/search_memory.py --images 40000 --image-size 64

Each trial is `finetune` in a Ray worker of its own, as in a sweep. Memory is the proportional set size (PSS) of all the
trials' workers at the end of their epoch, where a page that n processes share counts 1/n for each.
"""

from __future__ import annotations

import argparse
import re
import time
from pathlib import Path

import numpy as np
import ray
import torch
from recording import record
from sizes import positive

from pipeline.commands.common import known_names
from pipeline.config import ModelConfig, SearchConfig
from pipeline.data import ExampleSet, Splits
from pipeline.finetune import finetune
from pipeline.models import build_classifier
from pipeline.records import Hyperparameters

CONCURRENT = (1, 2, 4)
PATCH = 32
MODEL = {
    "backbone": "open_clip",
    "architecture": {"embed_dim": 16, "vision_cfg": {"patch_size": PATCH, "width": 16, "layers": 1, "head_width": 8}},
}


@ray.remote
class Trial:
    """A worker that fine-tunes for one epoch and then tells its memory."""

    def run(self, splits: Splits, image_size: int) -> None:
        """Fine-tune; the images stay mapped until the worker ends."""
        torch.set_num_threads(1)
        vision = MODEL["architecture"]["vision_cfg"] | {"image_size": image_size}
        settings = MODEL | {"architecture": MODEL["architecture"] | {"vision_cfg": vision}}
        model = build_classifier(ModelConfig.model_validate(settings, context=known_names()), 10)
        hyper = Hyperparameters(
            lr=1e-3, weight_decay=0, epochs=1, batch_size=64, label_smoothing=0, mixup=0, augmentation="minimal",
            randaugment_m=0, randaugment_n=0, seed=0,
        )  # fmt: skip
        search = SearchConfig.model_validate({}, context=known_names())
        finetune(model, splits, hyper, search, device="cpu")
        self.splits = splits

    def memory(self) -> dict[str, int]:
        """Bytes of this process: ``pss``, and ``anonymous``, which are its own."""
        text = Path("/proc/self/smaps_rollup").read_text(encoding="utf-8")
        found = {key: int(re.search(rf"^{key}:\s+(\d+) kB", text, re.MULTILINE)[1]) for key in ("Pss", "Pss_Anon")}
        return {"pss": found["Pss"] * 1024, "anonymous": found["Pss_Anon"] * 1024}


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=positive, default=40_000)
    parser.add_argument("--image-size", type=positive, default=64)
    options = parser.parse_args()
    if options.image_size % PATCH:
        parser.error(f"--image-size {options.image_size} is no multiple of the model's patches of {PATCH} pixels")
    shape = (options.images, 3, options.image_size, options.image_size)
    ray.init(address="local", num_cpus=max(CONCURRENT), include_dashboard=False, logging_level="error")
    generator = np.random.default_rng(0)
    train = ExampleSet(generator.integers(256, size=shape, dtype=np.uint8), generator.integers(10, size=options.images))
    few = ExampleSet(train.inputs[:64], train.labels[:64])
    splits = ray.put(Splits(None, train, few, few, few, tuple("0123456789"), ()))
    found = []
    for count in CONCURRENT:
        start = time.perf_counter()
        trials = [Trial.remote() for _ in range(count)]
        ray.get([trial.run.remote(splits, options.image_size) for trial in trials])
        memory = ray.get([trial.memory.remote() for trial in trials])
        for trial in trials:
            ray.kill(trial)
        total = {key: sum(each[key] for each in memory) for key in ("pss", "anonymous")}
        found.append({"trials": count, **total, "seconds": time.perf_counter() - start})
        print(found[-1], flush=True)
    record("search_memory", image_bytes=train.inputs.nbytes, concurrent=found)


if __name__ == "__main__":
    main()
