"""A trial on texts against a bare loop over transformers of the same steps, on the same batches.

    python tests/benchmarks/text_trial.py

MiniLM-L6 on texts of MRPC, an epoch at a time. The loop has what a script would: `AutoModel`, mean pooling, a linear
head, AdamW, clipped gradients, a learning rate that falls in a straight line; its batches are token ids, padded to the
longest text, that lie ready in memory. Its attention and its AdamW are those of the trial; `as_loaded` is a step with
those that transformers and torch choose. Rounds take turns; recorded are medians over the rounds of the ratio within
one. Also recorded: the share of an epoch that the trial waited for data, what tokenising took of it, and what batches
of texts of like length save, in tokens and in time.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import ray
import torch
from evidence import DATA
from evidence_glue import CONFIG, TASKS, files
from recording import record
from sizes import positive, same
from torch.nn import functional
from transformers import AutoModel, get_linear_schedule_with_warmup

from pipeline.cluster import start_ray
from pipeline.commands.common import known_names
from pipeline.config import SearchConfig, load_config
from pipeline.data import ExampleSet, Splits, load_splits
from pipeline.data.tokens import SEGMENT_BIT
from pipeline.finetune import finetune
from pipeline.models import build_classifier
from pipeline.precision import arithmetic
from pipeline.records import EpochRecord, Hyperparameters


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, help="folder with glue/ and minilm-l6/")
    parser.add_argument("--texts", type=positive, default=512)
    parser.add_argument("--batch", type=positive, default=16)
    parser.add_argument("--rounds", type=positive, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = [*TASKS["mrpc"], *files("mrpc", options.data.absolute(), Path(folder)), f"output={folder}/run"]
        config = load_config(f"configs/{CONFIG}.yaml", settings, known_names)
        start_ray()
        begun = time.perf_counter()
        whole = load_splits(config.data, config.seed)
        tokenising = time.perf_counter() - begun
        ray.shutdown()
    assert isinstance(whole.train, ExampleSet)
    tokens_per_second = len(whole.train) / tokenising
    train, few = (cut(part, count) for part, count in ((whole.train, options.texts), (whole.fit, 8)))
    splits = dataclasses.replace(whole, train=train, fit=few, select=few, test=few, precision=config.precision)
    mixed = dataclasses.replace(splits, train=dataclasses.replace(train, lengths=None))
    torch.set_num_threads(2)
    hyper = Hyperparameters(
        lr=1e-5, weight_decay=0, epochs=1, batch_size=options.batch, label_smoothing=0, seed=0, schedule="linear"
    )
    model = build_classifier(config.model, 2)
    seconds: dict[str, list[float]] = {"trial": [], "loop": [], "as_loaded": [], "trial_of_mixed_lengths": []}
    waits: list[float] = []
    ready = batches(train, hyper)
    same("steps", len(ready), -(-options.texts // options.batch))
    for _ in range(1 + options.rounds):  # the first to warm up
        epoch = trained(model, splits, hyper, config.search)
        waits.append(epoch.data_wait)
        seconds["trial"].append(options.texts / epoch.images_per_second)
        for name, eager in (("loop", True), ("as_loaded", False)):
            seconds[name].append(loop(str(config.model.name), ready, hyper, config.precision, eager=eager))
        seconds["trial_of_mixed_lengths"].append(
            options.texts / trained(model, mixed, hyper, config.search).images_per_second
        )
    ratio = {
        name: statistics.median(
            ours / theirs for ours, theirs in list(zip(seconds["trial"], seconds[name], strict=True))[1:]
        )
        for name in seconds
        if name != "trial"
    }
    record(
        "text_trial",
        options={name: value for name, value in vars(options).items() if name != "data"},
        precision=config.precision,
        seconds_of_an_epoch={name: statistics.median(values[1:]) for name, values in seconds.items()},
        ratio_of_the_trial_over=ratio,
        data_wait=statistics.median(waits[1:]),
        texts_tokenised_per_second=tokens_per_second,
        tokens={
            "in_texts": int(train.lengths.sum()) if train.lengths is not None else None,
            "in_batches_of_like_length": sum(ids.numel() for ids, _, _ in ready),
            "in_batches_of_mixed_lengths": sum(mask.shape.numel() for _, mask, _ in batches(mixed.train, hyper)),
        },
    )


def cut(examples: ExampleSet, count: int) -> ExampleSet:
    """The first examples."""
    lengths = None if examples.lengths is None else examples.lengths[:count]
    return ExampleSet(examples.inputs[:count], examples.labels[:count], lengths)


def trained(model: torch.nn.Module, splits: Splits, hyper: Hyperparameters, settings: SearchConfig) -> EpochRecord:
    """How the epoch of a trial went; the model goes on from where it is."""
    epochs: list[EpochRecord] = []
    finetune(model, splits, hyper, settings, device="cpu", on_epoch=lambda epoch, state: epochs.append(epoch))
    return epochs[0]


def batches(train: Any, hyper: Hyperparameters) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Ids, mask and labels of the batches of the trial's epoch, padded to the longest text of each."""
    found = []
    for rows, labels in train.epoch(hyper.batch_size, hyper.seed * 1_000_003):
        mask = (rows[:, : int((rows != 0).sum(1).max())] != 0).long()
        ids = ((rows.long() - 1).clamp(min=0) & (1 << SEGMENT_BIT) - 1)[:, : mask.shape[1]] * mask
        found.append((ids, mask, labels))
    return found


def loop(
    name: str,
    ready: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]],
    hyper: Hyperparameters,
    precision: Any,
    *,
    eager: bool,
) -> float:
    """Seconds of an epoch as a script has it."""
    choice = {"attn_implementation": "eager"} if eager else {}
    encoder = AutoModel.from_pretrained(name, **choice).train()
    head = torch.nn.Linear(encoder.config.hidden_size, 2)
    weights = [*encoder.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=hyper.lr, weight_decay=0, fused=eager)
    schedule = get_linear_schedule_with_warmup(optimizer, 0, len(ready))
    begun = time.perf_counter()
    for ids, mask, labels in ready:
        with arithmetic("cpu", precision):
            hidden = encoder(input_ids=ids, attention_mask=mask).last_hidden_state
            weight = mask[..., None].to(hidden.dtype)
            logits = head((hidden * weight).sum(1) / weight.sum(1))
        loss = functional.cross_entropy(logits.float(), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
