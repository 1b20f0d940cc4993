"""Out of core: memory does not grow with K, a budget is kept, smaller types, and going on after a kill."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from soup_models import Classifier, fine_tuned, fit_images, opened, save
from torch import nn

from pipeline.errors import SoupError
from pipeline.soups import METHODS, IngredientSet, MehlSettings, SoupInputs, accuracy_scorer, blocks_done, mehl_soup
from pipeline.soups.measure import measured

WIDTH = 1200  # 4 layers of 5.8 MB: large enough that arrays outweigh the interpreter

SCRIPT = """
import ctypes, json, sys
from pathlib import Path
import torch
from torch import nn
from pipeline.errors import SoupError
from pipeline.soups import IngredientSet, MehlSettings, mehl_soup

torch.set_num_threads(1)
width, options = int(sys.argv[2]), json.loads(sys.argv[3])
model = nn.Sequential(*(layer for _ in range(4) for layer in (nn.Linear(width, width, bias=False), nn.Tanh())))
ingredients = IngredientSet.open(sorted(Path(sys.argv[1]).glob("*.safetensors"))[: options.pop("count")])
fit = torch.randn(64, width), torch.randint(10, (64,))

def soup():
    return mehl_soup(model, ingredients, fit, MehlSettings(inner_iterations=3, batch_size=32, **options))

if options.get("memory_budget_gib") == "smallest":
    options["memory_budget_gib"] = 0.01
    try:
        soup()
    except SoupError as error:
        options["memory_budget_gib"] = float(str(error).split("; ")[1].split(" ")[0])
    ctypes.CDLL(None).malloc_trim(0)  # what the trial left over must not hide what comes
found = soup()
budget = options.get("memory_budget_gib")
print(json.dumps({"peak": found.peak_memory_bytes, "blocks": [len(b) for b in found.blocks], "budget": budget}))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    model = nn.Sequential(*(layer for _ in range(4) for layer in (nn.Linear(WIDTH, WIDTH, bias=False), nn.Tanh())))
    path = tmp_path_factory.mktemp("wide")
    save(path, fine_tuned(model, 16, spread=0.001))
    return path


def run(folder, environment=(), **options):
    """One soup in a process of its own: memory freed by earlier tests would hide what this one takes."""
    command = [sys.executable, "-c", SCRIPT, str(folder), str(WIDTH), json.dumps(options)]
    variables = {"OMP_NUM_THREADS": "1", **dict(environment)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=variables)
    return json.loads(done.stdout)


def test_peak_memory_is_b_and_a_few_models_whatever_k(folder):
    model_bytes = 4 * WIDTH * WIDTH * 4
    # glibc would keep some freed arrays, more or fewer from run to run: it is told to give all of them back.
    exact = {"MALLOC_MMAP_THRESHOLD_": "100000"}
    few, many = (run(folder, exact, count=count, block_size=2) for count in (4, 16))
    assert many["peak"] < few["peak"] + 0.25 * model_bytes, "twelve models more must take no memory"
    # Two directions, the fixed part and the gradients are four models.
    assert many["peak"] < 4.5 * model_bytes


def test_the_smallest_budget_that_would_do_does_and_is_kept(folder):
    kept = run(folder, count=16, block_size="auto", memory_budget_gib="smallest")
    assert kept["peak"] <= kept["budget"] * 2**30
    assert sum(kept["blocks"]) == 16


def test_a_larger_budget_is_used_and_kept(folder):
    kept = run(folder, count=16, block_size="auto", memory_budget_gib=0.3)
    assert kept["peak"] <= 0.3 * 2**30
    assert kept["blocks"][0] >= 4


@pytest.mark.parametrize(("delta_dtype", "tolerance"), [("float32", 1e-12), ("bfloat16", 5e-3), ("int8", 2e-2)])
@pytest.mark.parametrize("kind", ["tensor", "model"])
def test_smaller_types_change_coefficients_little(tmp_path, delta_dtype, tolerance, kind):
    model = Classifier(width=24)
    ingredients, fit = opened(tmp_path, model, 6, spread=0.1), fit_images(60, 24)
    settings = {"block_size": 3, "layers": kind, "inner_iterations": 30}
    exact = mehl_soup(model, ingredients, fit, MehlSettings(**settings))
    rounded = mehl_soup(model, ingredients, fit, MehlSettings(delta_dtype=delta_dtype, **settings))
    assert float(exact.coefficients.std()) > 0.01
    torch.testing.assert_close(rounded.coefficients, exact.coefficients, rtol=0, atol=tolerance)
    score = accuracy_scorer(model, fit)
    assert abs(score(rounded.state_dict) - score(exact.state_dict)) <= 1 / 60


class Killed(Exception):
    """Stands for the signal."""


class KilledModel(Classifier):
    """Fails at a forward pass; what Python code survives a kill is the checkpoint alone."""

    forwards_left = None

    def forward(self, images):
        if self.forwards_left is not None:
            if self.forwards_left == 0:
                raise Killed
            self.forwards_left -= 1
        return super().forward(images)


@pytest.mark.parametrize("forwards", [3, 4, 9])
def test_a_killed_soup_goes_on_from_its_last_finished_block(tmp_path, fit, forwards):
    model = KilledModel()
    ingredients = opened(tmp_path / "ingredients", model, 5)
    settings = MehlSettings(block_size=2, outer_iterations=4, inner_iterations=4, batch_size=16, direction_scale="unit")
    whole = mehl_soup(model, ingredients, fit, settings, seed=3)

    checkpoint = tmp_path / "progress" / "soup.safetensors"
    model.forwards_left = forwards
    assert blocks_done(checkpoint) is None
    with pytest.raises(Killed):
        mehl_soup(model, ingredients, fit, settings, seed=3, checkpoint=checkpoint)
    assert blocks_done(checkpoint) == (forwards // 4 or None)
    left = 16 - forwards // 4 * 4
    model.forwards_left = left  # enough for the blocks that are not finished, and no more
    resumed = mehl_soup(model, ingredients, fit, settings, seed=3, checkpoint=checkpoint)
    assert model.forwards_left == 0
    assert torch.equal(resumed.coefficients, whole.coefficients)
    assert (resumed.history, resumed.blocks, resumed.epochs) == (whole.history, whole.blocks, whole.epochs)
    assert not checkpoint.exists()


def test_progress_of_another_soup_is_not_gone_on_with(tmp_path, fit):
    model = KilledModel()
    ingredients = opened(tmp_path / "ingredients", model, 5)
    settings = MehlSettings(block_size=2, inner_iterations=2)
    checkpoint = tmp_path / "soup.safetensors"
    for seed, subset in ((1, range(5)), (0, [0, 1, 2, 4, 3])):
        model.forwards_left = 3
        with pytest.raises(Killed):
            mehl_soup(model, ingredients.subset(subset), fit, settings, seed=seed, checkpoint=checkpoint)
        assert checkpoint.exists()
        model.forwards_left = None
        soup = mehl_soup(model, ingredients, fit, settings, seed=0, checkpoint=checkpoint)
        assert torch.equal(soup.coefficients, mehl_soup(model, ingredients, fit, settings, seed=0).coefficients)


def edit_progress(path, **changes):
    """Change what the header of a checkpoint says; returns what it said."""
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["progress"])
    save_file(load_file(path), path, {"progress": json.dumps(header | changes)})
    return header


def test_cost_counts_all_attempts(tmp_path, fit):
    model, checkpoint = KilledModel(), tmp_path / "soup.safetensors"
    ingredients = opened(tmp_path / "ingredients", model, 5)
    inputs = SoupInputs(model=model, ingredients=ingredients, fit=fit, checkpoint=checkpoint)
    settings = MehlSettings(block_size=2, inner_iterations=2)

    def killed_after(forwards):
        model.forwards_left = forwards
        with pytest.raises(Killed):
            METHODS["mehl-plus"](inputs, settings)
        model.forwards_left = None

    killed_after(3)
    first = edit_progress(checkpoint, seconds=1000.0, peak_memory_bytes=2**40)  # as if that block had been larger
    assert 0 < first["seconds"] < 1000
    assert first["peak_memory_bytes"] >= 0
    killed_after(3)
    second = edit_progress(checkpoint)
    assert second["blocks_done"] == 2
    assert 1000 < second["seconds"] < 1100
    assert second["peak_memory_bytes"] == 2**40
    soup = METHODS["mehl-plus"](inputs, settings)
    assert second["seconds"] < soup.seconds < 1100
    assert soup.peak_memory_bytes == 2**40


@pytest.mark.parametrize("content", ["none", "noise", "weights", "older"])
def test_a_checkpoint_that_cannot_be_read_is_made_anew(tmp_path, fit, content):
    model, checkpoint = KilledModel(), tmp_path / "soup.safetensors"
    ingredients = opened(tmp_path / "ingredients", model, 5)
    settings = MehlSettings(block_size=2, inner_iterations=1)
    if content == "noise":
        checkpoint.write_bytes(b"not safetensors")
    elif content == "weights":
        save_file(model.state_dict(), checkpoint)
    elif content == "older":  # of a version that knew another field
        model.forwards_left = 1
        with pytest.raises(Killed):
            mehl_soup(model, ingredients, fit, settings, checkpoint=checkpoint)
        model.forwards_left = None
        edit_progress(checkpoint, images=7)
    assert blocks_done(checkpoint) == (1 if content == "older" else None)
    soup = mehl_soup(model, ingredients, fit, settings, checkpoint=checkpoint)
    assert torch.equal(soup.coefficients, mehl_soup(model, ingredients, fit, settings).coefficients)


def test_the_peak_on_cuda_is_that_of_all_nested_parts(monkeypatch):
    allocator = {"peak": 0}
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: allocator.update(peak=0))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: allocator["peak"])
    with measured("cuda") as whole:
        allocator["peak"] = 9
        with measured("cuda") as part:
            allocator["peak"] = 4
    assert (whole.peak_memory_bytes, part.peak_memory_bytes) == (9, 4)
    assert whole.seconds >= part.seconds > 0
    # As `mehl-plus-greedy` in METHODS: a method that is made of two others, all of which measure themselves.
    with measured("cuda") as whole, measured("cuda") as method:
        with measured("cuda"):
            allocator["peak"] = 45
        with measured("cuda"):
            allocator["peak"] = 4
    assert (whole.peak_memory_bytes, method.peak_memory_bytes) == (45, 45)
    with measured("cuda") as whole:
        with measured("cuda"):
            allocator["peak"] = 7
            with measured("cuda"):
                pass
        allocator["peak"] = 1
        with measured("cuda"):
            pass
    assert whole.peak_memory_bytes == 7
    assert whole.peak_memory_kind == "cuda"


def test_a_fixed_block_size_that_does_not_fit_is_refused(model, ingredients, fit):
    with pytest.raises(SoupError, match=r"memory_budget_gib 0\.001 .* block of 2"):
        mehl_soup(model, ingredients, fit, MehlSettings(block_size=2, memory_budget_gib=0.001))


class Spread(KilledModel):
    """What a graph keeps outweighs the weights: 80 kB an image."""

    def __init__(self):
        super().__init__()
        self.scale, self.head = nn.Parameter(torch.ones(20_000)), nn.Linear(20_000, 4)
        self.blocks, self.frozen = nn.ModuleList(), nn.Identity()
        self.seen = []

    def forward(self, images):
        self.seen.append(len(images))
        return super().forward(torch.tanh(images @ images.new_ones(6, 20_000) * self.scale))


def test_a_batch_is_cut_where_the_budget_has_no_room_for_it(tmp_path, caplog):
    caplog.set_level("INFO", "pipeline.soups")
    model, fit = Spread(), fit_images(256)
    ingredients = opened(tmp_path / "ingredients", model, 4, spread=0.01)
    settings = {"block_size": 2, "inner_iterations": 2, "batch_size": 256}
    whole = mehl_soup(model, ingredients, fit, MehlSettings(**settings))
    tight = MehlSettings(memory_budget_gib=0.1, **settings)
    model.seen.clear()
    cut = mehl_soup(model, ingredients, fit, tight)
    assert model.seen == [32, 64] + [64] * 16, "two trials, then each step in quarters"
    assert ", 64 images at a time, about 0.0" in caplog.text
    torch.testing.assert_close(cut.coefficients, whole.coefficients)

    # What was planned holds after a kill: by another memory, a block would come out in another way.
    checkpoint = tmp_path / "soup.safetensors"
    model.forwards_left = 2 + 8
    with pytest.raises(Killed):
        mehl_soup(model, ingredients, fit, tight, checkpoint=checkpoint)
    assert edit_progress(checkpoint)["micro_batch_size"] == 64
    model.forwards_left = 8
    assert torch.equal(mehl_soup(model, ingredients, fit, tight, checkpoint=checkpoint).coefficients, cut.coefficients)


def test_the_model_comes_back_after_an_error(tmp_path, fit):
    model = KilledModel()
    ingredients = IngredientSet.open(save(tmp_path, fine_tuned(model, 2)))
    model.forwards_left = 1
    model.head.requires_grad_(False)
    with pytest.raises(Killed):
        mehl_soup(model, ingredients, fit)
    assert model.training
    assert not model.head.weight.requires_grad
    assert model.scale.requires_grad
