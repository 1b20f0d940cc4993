"""Models of every make: tied weights, BatchNorm, half precision, wrong models; settings; the smaller methods."""

import dataclasses

import numpy as np
import pytest
import torch
from soup_models import Classifier, Normed, fine_tuned, fit_images, opened, save
from torch import nn

from pipeline.errors import SoupError
from pipeline.soups import (
    METHODS,
    GreedySettings,
    IngredientSet,
    LearnedSettings,
    MehlSettings,
    SoupInputs,
    WiseFtSettings,
    cosine_similarities,
    diagnose,
    greedy_ensemble,
    mehl_soup,
    uniform_soup,
    wise_ft,
)
from pipeline.soups.layers import layer_names
from pipeline.soups.scoring import fit_scorer


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 6, bias=False)
        self.second = nn.Linear(6, 6, bias=False)
        self.second.weight = self.first.weight
        self.head = nn.Linear(6, 4)

    def forward(self, images):
        return self.head(self.second(torch.tanh(self.first(images))))


def test_tied_tensors_are_stored_once_and_stay_tied(tmp_path, fit):
    model = Tied()
    states = fine_tuned(model, 3)
    for state in states:
        del state["second.weight"]
    ingredients = IngredientSet.open(save(tmp_path / "once", states))
    soup = mehl_soup(model, ingredients, fit, MehlSettings(block_size=2))
    assert "first.weight" in soup.layers
    assert "second.weight" not in soup.state_dict
    assert model.second.weight is model.first.weight

    twice = IngredientSet.open(save(tmp_path / "twice", fine_tuned(model, 3)))
    with pytest.raises(SoupError, match=r"'first\.weight' and 'second\.weight' are tied"):
        mehl_soup(model, twice, fit)


def test_batchnorm_statistics_are_mixed_where_nobody_recalibrates(tmp_path):
    ingredients = opened(tmp_path, Normed(), 3)
    soup = uniform_soup(ingredients)
    mean = torch.stack([ingredients.tensor(k, "norm.running_var") for k in range(3)]).mean(0)
    torch.testing.assert_close(soup.state_dict["norm.running_var"], mean)
    assert soup.state_dict["norm.num_batches_tracked"] == ingredients.tensor(0, "norm.num_batches_tracked")


def test_layers_of_statistics_alone_keep_equal_shares(tmp_path, fit):
    ingredients = opened(tmp_path, Normed(), 3)
    for decentralize in (True, False):
        soup = mehl_soup(Normed(), ingredients, fit, MehlSettings(decentralize=decentralize))
        column = soup.coefficients[:, soup.layers.index("norm.running_mean")]
        torch.testing.assert_close(column, torch.full((3,), 1 / 3, dtype=torch.float64))


def test_a_resnet_learns_with_recalibrated_statistics(tmp_path):
    resnet18 = pytest.importorskip("torchvision.models").resnet18
    model = resnet18(num_classes=4)
    images, labels = torch.randn(16, 3, 32, 32), torch.arange(16) % 4
    ingredients = opened(tmp_path, model, 3, spread=0.01)
    seen = []

    def recalibrate(loaded):
        norms = [module for module in loaded.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
        loaded.train()
        with torch.no_grad():
            loaded(images)
        seen.append(loaded)

    settings = MehlSettings(block_size=2, inner_iterations=3, layers="module")
    inputs = SoupInputs(model=model, ingredients=ingredients, fit=(images, labels), recalibrate=recalibrate)
    soup = METHODS["mehl-plus"](inputs, settings)
    assert len(seen) == 3, "before each of two blocks, and for the soup returned"
    assert soup.history[-1] < soup.history[0]
    assert soup.state_dict["bn1.num_batches_tracked"].dtype == torch.int64
    model.load_state_dict(soup.state_dict)
    with torch.no_grad():
        first = model.conv1(images)
    torch.testing.assert_close(soup.state_dict["bn1.running_mean"], first.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)


def of_one_epoch(tmp_path):
    """Ingredients whose running statistics lag far behind their weights, and inputs that can renew them."""
    model = Normed()
    images, labels = fit_images()
    states = fine_tuned(model, 3, spread=0.05)
    for state in states:
        state["norm.running_mean"] += 40
    ingredients = IngredientSet.open(save(tmp_path, states))

    def recalibrate(loaded):
        loaded.norm.reset_running_stats()
        loaded.norm.momentum = None
        loaded.train()
        with torch.no_grad():
            loaded(images.flatten(1))

    return SoupInputs(model=model, ingredients=ingredients, fit=(images.flatten(1), labels), recalibrate=recalibrate)


def test_the_best_individual_has_its_own_statistics_and_a_row_of_its_own_renewed_ones(tmp_path):
    inputs = of_one_epoch(tmp_path)
    own, renewed = METHODS["best-individual"](inputs), METHODS["best-individual-renewed"](inputs)
    (best,) = own.selected
    assert renewed.selected == own.selected
    assert torch.equal(own.state_dict["norm.running_mean"], inputs.ingredients.tensor(best, "norm.running_mean"))
    assert renewed.state_dict["norm.running_mean"].abs().max() < 10
    assert torch.equal(own.state_dict["body.weight"], renewed.state_dict["body.weight"])
    without = dataclasses.replace(inputs, recalibrate=None)
    assert torch.equal(
        METHODS["best-individual-renewed"](without).state_dict["norm.running_mean"], own.state_dict["norm.running_mean"]
    )


@pytest.mark.parametrize("bad", [True, False])
def test_greedy_compares_like_with_like(tmp_path, bad):
    inputs = of_one_epoch(tmp_path)
    alone = METHODS["best-individual-renewed"](inputs)
    score = fit_scorer(inputs, recalibrate=False)
    with_renewed = score(alone.state_dict)
    accuracies = [0.0, 0.0, 0.0] if bad else [0.0, 1.0, 0.0]
    if bad:
        accuracies[alone.selected[0]] = 0.01
    soup = METHODS["greedy"](dataclasses.replace(inputs, accuracies=accuracies))
    # What the first has to offer is the better of both statistics: the second does not join for renewing alone.
    assert soup.history[0] == (with_renewed if bad else 1.0)
    if not bad:
        assert soup.selected == (1,)
        assert torch.equal(soup.state_dict["norm.running_mean"], inputs.ingredients.tensor(1, "norm.running_mean"))
    assert soup.epochs >= 1, "the pass with renewed statistics counts"


def test_weight_decay_draws_to_the_start_without_a_centre_too(tmp_path, fit):
    # A step of AdamW is at most its rate, here 0.05; decay by rate times weight decay = 1 forgets all but the start.
    ingredients = opened(tmp_path, Classifier(), 5)
    for decentralize, start in ((True, 0.2), (False, 0.2)):
        settings = MehlSettings(
            block_size=2, inner_iterations=20, learning_rate=0.05, weight_decay=20, schedule="constant",
            decentralize=decentralize,
        )  # fmt: skip
        coefficients = mehl_soup(Classifier(), ingredients, fit, settings).coefficients
        assert (coefficients - start).abs().max() < 0.16
    unit = dataclasses.replace(settings, direction_scale="unit", learning_rate=1e-6, weight_decay=1e6)
    coefficients = mehl_soup(Classifier(), ingredients, fit, unit).coefficients
    torch.testing.assert_close(coefficients, torch.full_like(coefficients, 0.2), atol=1e-4, rtol=0)


def test_ingredients_in_half_precision_learn_in_float32(tmp_path, fit):
    ingredients = opened(tmp_path, Classifier().to(torch.bfloat16), 4)
    soup = mehl_soup(Classifier(), ingredients, fit, MehlSettings(block_size=2))
    assert {tensor.dtype for tensor in soup.state_dict.values()} == {torch.bfloat16}
    with pytest.raises(SoupError, match="give a float32 model"):
        mehl_soup(Classifier().to(torch.bfloat16), ingredients, fit)


def test_coefficients_learned_in_bfloat16_are_alike(model, ingredients, fit):
    full, lower = (
        mehl_soup(model, ingredients, fit, MehlSettings(block_size=2, precision=precision))
        for precision in ("float32", "bfloat16")
    )
    assert lower.history != full.history, "nothing was computed in bfloat16"
    assert lower.history == pytest.approx(full.history, rel=2e-2)
    np.testing.assert_allclose(lower.coefficients, full.coefficients, atol=0.1)
    assert {tensor.dtype for tensor in lower.state_dict.values()} == {torch.float32}


def test_a_model_that_does_not_fit_is_named(ingredients, fit):
    with pytest.raises(SoupError, match=r"'head\.bias' has shape \(5,\) in the model and \(4,\)"):
        mehl_soup(Classifier(classes=5), ingredients, fit)
    bigger = Classifier()
    bigger.extra = nn.Linear(2, 2)
    with pytest.raises(SoupError, match=r"'extra\.weight'"):
        mehl_soup(bigger, ingredients, fit)
    with pytest.raises(SoupError, match=r"no tensor 'blocks\.0\.0\.bias'"):
        mehl_soup(nn.Linear(6, 4), ingredients, fit)


def test_fit_data_that_cannot_be_used(model, ingredients, fit):
    with pytest.raises(SoupError, match="40 fit images and 39 labels"):
        mehl_soup(model, ingredients, (fit[0], fit[1][1:]))
    with pytest.raises(SoupError, match="only once"):
        mehl_soup(model, ingredients, iter([fit]))


def test_preprocess_runs_on_every_batch(model, ingredients, fit):
    raw = (fit[0] * 7 + 3, fit[1])
    prepared = mehl_soup(model, ingredients, raw, preprocess=lambda images: (images - 3) / 7)
    torch.testing.assert_close(
        prepared.coefficients, mehl_soup(model, ingredients, fit).coefficients, rtol=0, atol=1e-4
    )


def test_layer_names():
    names = ["cls", "tower.pos", "tower.blocks.0.attn.w", "tower.blocks.0.mlp.b", "tower.blocks.1.mlp.b", "head.weight"]
    assert layer_names(names, "tensor") == tuple(names)
    assert layer_names(names, "module") == ("root", "tower", "tower.blocks.0", "tower.blocks.1", "head")
    assert layer_names(names, "model") == ("model",)


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (MehlSettings, {"block_size": 0}),
        (MehlSettings, {"block_size": "auto"}),
        (MehlSettings, {"block_size": True}),
        (MehlSettings, {"learning_rate": 0}),
        (MehlSettings, {"learning_rate": float("nan")}),
        (MehlSettings, {"warmup": 1}),
        (MehlSettings, {"layers": "row"}),
        (MehlSettings, {"delta_dtype": "float16"}),
        (LearnedSettings, {"memory": "all"}),
        (LearnedSettings, {"batch_size": 1.5}),
        (GreedySettings, {"ties": "maybe"}),
        (GreedySettings, {"sweeps": 0}),
        (WiseFtSettings, {"alpha": float("inf")}),
    ],
)
def test_wrong_settings_name_field_value_and_what_is_allowed(kind, wrong):
    [(field, value)] = wrong.items()
    said = "the truth value true" if value is True else repr(value)
    with pytest.raises(ValueError, match=f"^{field} is {said}, allowed: "):
        kind(**wrong)


def test_all_problems_of_settings_at_once():
    with pytest.raises(ValueError, match=r"batch_size is 0.*optimizer is 'adam'"):
        MehlSettings(batch_size=0, optimizer="adam")


def test_settings_of_methods_can_be_overridden_field_by_field():
    for method in METHODS.values():
        if method.defaults is not None:
            assert dataclasses.is_dataclass(method.defaults)
            assert dataclasses.replace(method.defaults) == method.defaults
    assert METHODS["mehl"].defaults.layers == METHODS["learned"].defaults.layers == "model"


def test_greedy_ensemble_chooses_by_mean_logits(model, ingredients, fit):
    ensemble = greedy_ensemble(model, ingredients, fit, GreedySettings(ties="reject"), score_batch_size=7)
    assert list(ensemble.history) == sorted(set(ensemble.history))
    model.eval()
    logits = 0
    for k in ensemble.selected:
        model.load_state_dict(ingredients.state_dict(k))
        logits = logits + model(fit[0])
    assert float((logits.argmax(1) == fit[1]).float().mean()) == pytest.approx(ensemble.history[-1])
    known = greedy_ensemble(model, ingredients, fit, accuracies=[0.1, 0.2, 0.3, 0.4, 0.5])
    assert known.epochs <= 5


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0, 1.5])
def test_wise_ft_is_a_line_through_theta0_and_the_soup(model, ingredients, alpha):
    theta0 = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    uniform = uniform_soup(ingredients)
    soup = wise_ft(ingredients, uniform, theta0, alpha)
    for name, tensor in soup.state_dict.items():
        torch.testing.assert_close(tensor, (1 - alpha) * theta0[name] + alpha * uniform.state_dict[name])
    with pytest.raises(SoupError, match="theta0"):
        wise_ft(ingredients, uniform, None)


def test_wise_ft_of_one_ingredient(model, ingredients):
    theta0 = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    alone = ingredients.subset([1])
    soup = wise_ft(alone, uniform_soup(alone), theta0)
    middle = (theta0["head.weight"] + alone.tensor(0, "head.weight")) / 2
    torch.testing.assert_close(soup.state_dict["head.weight"], middle)


def test_diagnosis_finds_the_ingredient_from_another_basin(tmp_path):
    """A hidden unit's sign flipped, or units permuted: as good alone, ruinous in a mean."""
    torch.manual_seed(0)
    model, fit = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 4)), fit_images(200)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(150):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(fit[0]), fit[1]).backward()
        optimizer.step()
    theta0 = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    states = fine_tuned(model, 4, spread=0.02)
    flipped = {name: -tensor if name.startswith("0.") else tensor for name, tensor in states[0].items()}
    states.append({name: -tensor if name == "2.weight" else tensor for name, tensor in flipped.items()})
    ingredients = IngredientSet.open(save(tmp_path, states))
    from pipeline.soups import accuracy_scorer

    found = diagnose(ingredients, accuracy_scorer(model, fit), theta0)
    assert found.accuracies[4] == found.accuracies[0]
    assert max(range(5), key=lambda k: found.barriers[k]) == 4
    assert found.norms[4] > 3 * found.norms[:4].max()
    lines = found.explain()
    assert str(ingredients.paths[4]) in lines[1]
    direction = [state["2.weight"].flatten() - theta0["2.weight"].flatten() for state in states]
    assert found.angles.diagonal().abs().max() < 1e-3
    assert len(direction) == 5

    without = diagnose(ingredients.subset(range(4)), accuracy_scorer(model, fit))
    assert without.origin == "mean"
    assert len(without.explain()) == 1


def test_cosines_are_those_of_all_weights_of_each_pair(tmp_path, model):
    theta0 = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    states = fine_tuned(model, 3, spread=0.02)
    for state in states:
        state["head.weight"] = theta0["head.weight"]  # frozen: part of the weights, of no direction
    found = cosine_similarities(IngredientSet.open(save(tmp_path, states)), theta0)
    names = [name for name, tensor in theta0.items() if tensor.is_floating_point()]
    flat = torch.stack([torch.cat([state[name].flatten().double() for name in names]) for state in states])
    start = torch.cat([theta0[name].flatten().double() for name in names])
    for cosines, origin in ((found.weights, 0), (found.from_mean, flat.mean(dim=0)), (found.from_theta0, start)):
        expected = nn.functional.cosine_similarity(flat[:, None] - origin, flat[None] - origin, dim=2)
        torch.testing.assert_close(cosines, expected, atol=1e-6, rtol=0)
    assert found.weights.min() > 0.99 > 0 > found.from_mean[0, 1]
    assert cosine_similarities(IngredientSet.open(save(tmp_path, states))).from_theta0 is None
