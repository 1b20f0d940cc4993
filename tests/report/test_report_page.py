import re
import subprocess
import sys
from html.parser import HTMLParser
from urllib.parse import unquote

import pytest
from plotly.offline import get_plotlyjs
from report_records import (
    a_failure,
    a_ratio,
    a_run,
    a_soup,
    a_sweep,
    a_variant,
    an_ingredient,
    the_comparisons,
    the_costs,
    the_results,
    the_soups,
)

from pipeline.records import CoefficientRecord, Record, RunResults
from pipeline.records.folder import RunFolder, read_results, write_run
from pipeline.records.tables import write_table
from pipeline.report import SECTIONS, Section, comparison_page, methods_table, page, write_report
from pipeline.report.comparisons import p_values
from pipeline.report.markup import chart, paragraph
from pipeline.report.plot import LinePlot, Series

HOSTILE = "</script><img src=https://evil.example/x onerror=alert(1)>&\"'"


def a_page(**tables) -> str:
    """The page of a run with these tables, without plotly.js, which holds addresses of its own."""
    html = page(the_results(**tables))
    assert html.count(get_plotlyjs()) <= 1
    return html.replace(get_plotlyjs(), "")


def text_of(html: str) -> str:
    """The text of the page without scripts and styles."""
    html = re.sub(r"<(script|style)>.*?</\1>", "", html, flags=re.S)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html).replace("&nbsp;", " "))


class Outline(HTMLParser):
    """Collects tags and checks that they are closed in order."""

    VOID = ("meta", "link", "br", "img")

    def __init__(self, html):
        super().__init__()
        self.stack, self.tags, self.attributes = [], [], []
        self.feed(html)
        assert not self.stack

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(name, value) for name, value in attrs]
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag


def test_files_are_written_whole_and_nothing_else_is_left(tmp_path):
    paths = write_report(tmp_path / "run", the_results())
    plots = [
        "cost_accuracy",
        "number_accuracy",
        "elimination",
        "ablation",
    ]
    plots += ["coefficients", "coefficient_map", "wise_ft", "similarity", "ingredients"]
    names = [f"{plot}.{form}" for plot in plots for form in ("png", "svg")]
    assert paths == [tmp_path / "run" / "report.html", *(tmp_path / "run" / "figures" / name for name in names)]
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(paths)
    assert all(path.stat().st_size > 1000 for path in paths)
    assert (tmp_path / "run" / "figures" / "ingredients.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_records_give_the_same_files(tmp_path):
    first, second = (write_report(tmp_path / name, the_results()) for name in "ab")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_a_report_that_cannot_be_finished_leaves_the_old_one(tmp_path, monkeypatch):
    (tmp_path / "report.html").write_text("old")
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_report(tmp_path, RunResults(a_run()))
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_text() == "old"


def test_the_page_is_well_formed_and_fetches_nothing():
    outline = Outline(a_page())
    assert outline.tags.count("h1") == 1
    assert outline.tags.count("caption") == outline.tags.count("table") == 11
    assert ("lang", "en") in outline.attributes
    fetching = [value for name, value in outline.attributes if name in ("src", "href", "srcset", "action", "data")]
    assert all(value.startswith(("#", "data:")) for value in fetching)
    targets = {value for name, value in outline.attributes if name == "id"}
    assert {value[1:] for value in fetching if value.startswith("#")} <= targets


def test_what_people_named_is_escaped():
    ingredients = [an_ingredient(0), a_failure(1, HOSTILE)]
    run = a_run(name=HOSTILE, machine=HOSTILE, git_commit=HOSTILE, versions={HOSTILE: HOSTILE}, champion=HOSTILE)
    ablation = [a_variant(HOSTILE, HOSTILE, HOSTILE)]
    html = a_page(run=run, ingredients=ingredients, soups=[a_soup(HOSTILE)], ablation=ablation)
    outline = Outline(html)
    assert "img" not in outline.tags
    assert not any(name == "onerror" for name, _ in outline.attributes)
    assert html.count("&lt;/script&gt;&lt;img") >= 6


def test_without_costs_the_page_says_how_to_get_them(tmp_path):
    assert "--stages study,report" in a_page(cost_accuracy=[], cost_ratios=[])
    paths = write_report(tmp_path, RunResults(a_run(), a_sweep(), the_soups()))
    assert [path.name for path in paths] == ["report.html", "ingredients.png", "ingredients.svg"]


def test_an_empty_run_still_has_a_page(tmp_path):
    assert [path.name for path in write_report(tmp_path, RunResults(a_run(champion=None)))] == ["report.html"]
    text = text_of((tmp_path / "report.html").read_text())
    assert "There is no champion yet" in text
    assert "No trial has run yet" in text
    assert "Plotly" not in text


def test_trials_without_an_ingredient_are_listed_with_their_reason(tmp_path):
    ingredients = [a_failure(0, "out of memory"), a_failure(1, "loss is not finite", "rejected")]
    text = text_of(a_page(ingredients=ingredients, cost_accuracy=[]))
    assert "Trial 0 (failed): out of memory" in text
    assert "Trial 1 (rejected): loss is not finite" in text
    assert "2 trials (1 failed, 1 rejected)" in text
    write_report(tmp_path, RunResults(a_run(), ingredients))


@pytest.mark.parametrize(("device", "unit", "other"), [("cpu", "CPU core", "GPU hours"), ("cuda", "GPU", "CPU")])
def test_cost_is_named_after_the_device(device, unit, other):
    ingredients = a_sweep(device=device)
    html = a_page(run=a_run(machine="a machine"), ingredients=ingredients)
    assert f"Cost so far ({unit} hours)" in html
    assert f"Cost ({unit} seconds)" in html
    assert other not in html
    assert f"{unit} hours" in methods_table(a_run(champion=None), the_soups(), ingredients)


def test_the_sweep_has_a_column_for_each_hyperparameter_that_differs_and_names_the_others_once():
    rows = [an_ingredient(i, lr=10.0**-i, ema_decay=0.9 * i, adapter=("wide", "slim")[i], seed=7) for i in range(2)]
    text = text_of(a_page(ingredients=rows))
    assert (
        "The same in all trials: weight decay 0.01, epochs 8, batch size 64, label smoothing 0.05, mixup 0, "
        "augmentation RandAugment n=2 m=9, seed 7."
    ) in text
    assert "Test % Learning rate EMA decay Adapter Attempts Images seen" in text
    assert " 1 finished 91.00 90.00 90.00 0.1 0.9 slim 1 4,000 " in text


def test_imported_checkpoints_have_no_hyperparameters_to_show():
    rows = [row.model_copy(update={"device": "imported"}) for row in a_sweep(3)]
    for row in rows:
        row.__pydantic_extra__.update(dict.fromkeys(row.hyperparameters))
    text = text_of(a_page(ingredients=rows))
    assert "Test % Attempts Images seen" in text
    assert "The same in all trials" not in text


def test_several_kinds_of_gpu_have_their_cost_apart():
    kinds = ("NVIDIA A100", "NVIDIA H200", "NVIDIA H200", "NVIDIA A100 and NVIDIA H200")
    rows = [an_ingredient(index, device=kind, gpu_hours=2.0) for index, kind in enumerate(kinds)]
    text = text_of(a_page(ingredients=rows))
    assert (
        "The sweep of 4 trials (all finished) cost 8 GPU hours, of which 4 on NVIDIA H200, "
        "2 on NVIDIA A100, 2 on NVIDIA A100 and NVIDIA H200."
    ) in text


def test_the_overview_says_when_a_gain_is_within_noise():
    noisy = text_of(a_page())
    assert "MEHL-Soup+ is the champion: of the single models it has the best" in noisy
    assert "Gain over best individual, within noise +1.61 pp" in noisy
    assert "The best individual trial has 93.96 % on it." in noisy
    assert "Of 20 test images that only one of the two gets right the champion has 14." in noisy
    assert "The 95 % interval of the gain is -0.20 to +3.42 points (corrected p = 0.62, see Comparisons)." in noisy
    sure = [row.model_copy(update={"p_adjusted": 0.001}) for row in the_comparisons()]
    assert "Gain over best individual, beyond noise" in text_of(a_page(comparisons=sure))
    assert "noise" not in text_of(a_page(comparisons=[]))


def test_the_overview_says_whom_validation_decided_against():
    assert "the same there" not in text_of(a_page())
    soups = [row.model_copy(update={"select_accuracy": 0.97}) for row in the_soups()]
    told = "Best individual and Uniform soup and Greedy soup and MEHL-Soup have the same there, so validation accuracy"
    assert told in text_of(a_page(soups=soups)), "an ensemble is no single model"


def test_the_champion_is_compared_with_every_other_method():
    text = text_of(a_page())
    assert "corrected for all 15 pairs of methods" in text
    assert "Greedy soup +1.61 -0.20 to +3.42 14 6 0.115 0.62" in text
    assert "Ensemble -1.61 -3.42 to +0.20 6 14 0.115 0.62" in text
    assert "--stages study,report" in text_of(a_page(comparisons=[]))


def test_a_p_value_has_the_digits_that_say_something():
    tiny = [row.model_copy(update={"p_value": 1.2e-7, "p_adjusted": 4.6e-6}) for row in the_comparisons()]
    text = text_of(a_page(comparisons=tiny)).replace("&lt;", "<")
    assert "(corrected p < 0.001, see Comparisons)" in text
    assert "Greedy soup +1.61 -0.20 to +3.42 14 6 < 0.001 < 0.001" in text
    assert p_values(0.0496, 0.04999, 0.001234) == ["0.0496", "0.04999", "0.001234"]


def test_the_page_begins_with_the_figures_and_the_cost_chart_and_says_everything_once():
    html = a_page(cost_accuracy=[*the_costs(a_sweep()), *the_costs(a_sweep(), order_seed=1)])
    overview = html[html.index('<section id="overview">') :]
    assert overview.index('class="tiles"') < overview.index('id="cost_accuracy-chart"') < overview.index("<p")
    assert html.count('id="cost_accuracy-chart"') == 1
    told = re.findall(r"<p[ >].*?</p>|<caption>.*?</caption>|<figcaption>.*?<a", html)
    sentences = [sentence for text in told for sentence in re.split(r"(?<=\.) (?=[A-Z])", text_of(text).strip())]
    assert len(sentences) > 50
    assert sorted(set(sentences)) == sorted(sentences)


def test_what_is_compared_has_enough_digits_to_differ():
    soups = [a_soup("best-individual", test_accuracy=0.94496), a_soup("mehl-plus", test_accuracy=0.945)]
    ratio = a_ratio(gpu_hours=0.010001, baseline_gpu_hours=0.010004, ratio=1.0003, low=1.0002, best_accuracy=0.949004)
    text = text_of(a_page(soups=soups, comparisons=[], cost_ratios=[ratio]))
    assert "Test accuracy 94.500 % Gain over best individual +0.004 pp" in text
    assert "The best individual trial has 94.496 % on it." in text
    assert "For 94.9000 % test accuracy Greedy soup needed 0.010004 CPU core hours, MEHL-Soup+ 0.010001." in text
    assert "Greedy soup did not reach the 94.9004 % of MEHL-Soup+." in text
    assert "costs 1.0003 times as much as MEHL-Soup+ for the same accuracy (95 % interval 1.0002 to 4)." in text
    same = text_of(a_page(cost_ratios=[a_ratio(baseline_gpu_hours=0.01)]))
    assert "Greedy soup and MEHL-Soup+ both needed 0.01 CPU core hours." in same
    below = methods_table(a_run(theta0_select_accuracy=0.97001), the_soups(), a_sweep())
    assert "select 97.000 % against 97.001 %" in below


def test_memory_is_told_only_where_it_says_something():
    why = "less than 512 MiB is not shown"
    told = a_page()
    assert (told.count(why), told.count(">1.3 GiB RAM<"), told.count(">Peak memory<")) == (1, 1, 1)
    assert "120 MiB" not in told
    soups = [soup.model_copy(update={"peak_memory_bytes": 0}) for soup in the_soups()]
    silent = a_page(soups=soups)
    assert (silent.count(why), silent.count(">Peak memory<")) == (1, 0)
    assert "memory" not in methods_table(a_run(), soups, a_sweep())
    on_gpu = [soup.model_copy(update={"peak_memory_kind": "cuda"}) for soup in the_soups()]
    gpu = text_of(a_page(soups=on_gpu, ingredients=[an_ingredient(device="H200", peak_memory_bytes=2**30)]))
    assert "120 MiB GPU" in gpu
    assert why not in gpu
    assert "Attempts Images seen Peak memory" in gpu


def test_the_overview_is_honest_about_soups_that_gained_nothing():
    assert "mixing gained nothing" in text_of(a_page(run=a_run(champion="best-individual")))
    assert "Gain over best individual, within noise -2.81 pp" in text_of(
        a_page(soups=[a_soup("best-individual", test_accuracy=0.9731), a_soup("mehl-plus")])
    )


def test_the_page_says_why_a_sweep_ended_before_its_last_trial():
    said = "ended before its last trial by search.stop.max_price: too much"
    assert said in text_of(a_page(run=a_run(stopped="search.stop.max_price: too much")))
    assert "before its last trial" not in text_of(a_page())


def test_without_a_select_split_the_champion_was_chosen_by_validation():
    soups = [soup.model_copy(update={"select_accuracy": None}) for soup in the_soups()]
    assert "chosen by validation accuracy because this run has no select split" in text_of(a_page(soups=soups))
    assert "* champion: best validation accuracy" in methods_table(a_run(), soups, a_sweep())


def test_the_table_of_the_command_line():
    lines = methods_table(a_run(), the_soups(), a_sweep()).splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split()[1] for line in lines if line.startswith("*")] == ["mehl-plus", "champion:"]
    cells = ["* mehl-plus", "97.75", "97.00", "95.57", "16/16", "1 min 23 s", "1.3 GiB RAM"]
    assert re.split(r"  +", lines[7]) == cells
    assert re.split(r"  +", lines[2].strip()) == ["theta0", "62.25", "62.00", "61.37", "-", "-", "-"]
    assert "16 of 18 trials finished, 0.0" in lines[-2]
    assert "CPU core hours" in lines[-2]
    ended = [
        row.model_copy(update={"status": status})
        for row, status in zip(a_sweep(), ["left-out", "stopped"], strict=False)
    ]
    assert "14 of 18 trials finished, 1 stopped, 1 left out, 0.0" in methods_table(
        a_run(), the_soups(), [*ended, *a_sweep()[2:]]
    )
    reason = (
        "search.stop.max_gpu_hours: the 18 trials so far come to 0.0112 CPU core hours, and the next would make it more"
    )
    why = methods_table(a_run(stopped=reason), the_soups(), a_sweep())
    assert max(map(len, why.splitlines())) <= 80
    assert f"ended before its last trial by {reason}" in " ".join(why.split())
    assert lines[-1] == "  theta0: 0.0031 CPU core hours (11.2 s of one core) beside that"
    unknown = a_run(champion=None, theta0_gpu_hours=None, theta0_test_accuracy=None)
    assert "GPU" in methods_table(unknown, [a_soup(peak_memory_kind="cuda")], a_sweep(device="cuda"))


def earlier(**changes):
    """A run from before the accuracies of theta0 but that on test were recorded."""
    return a_run(theta0_val_accuracy=None, theta0_select_accuracy=None, **changes)


def test_the_starting_point_stands_beside_the_methods():
    text = text_of(a_page())
    assert "Starting point 62.25 62.00 61.37 57.02 to 65.55 - - - - - Best individual 95.00" in text
    assert "Starting point 0 0 62.25 62.00 61.37 57.02 to 65.55 MEHL-Soup+ 4" in text
    assert "Starting point - - 61.37 57.02 to 65.55" in text_of(a_page(run=earlier()))
    assert "Starting point 0" not in text_of(a_page(run=a_run(theta0_test_accuracy=None, theta0_gpu_hours=None)))
    shifted = [type(soup).model_validate({**soup.model_dump(), "blur_accuracy": 0.5}) for soup in the_soups()]
    run = a_run(theta0_shift_accuracies={"blur": 0.25})
    assert "57.02 to 65.55 25.00 - - - - - Best individual" in text_of(a_page(run=run, soups=shifted))
    compared = text_of(
        comparison_page([the_results(run=a_run(name=name)) for name in "ab"]).replace(get_plotlyjs(), "")
    )
    assert "Starting point 61.37 61.37 61.37 0.00" in compared


def test_a_champion_below_the_starting_point_is_said_to_be():
    def said(run):
        return text_of(a_page(run=run)), methods_table(run, the_soups(), a_sweep())

    def below(text):
        return "below the starting point" in text

    assert not any(map(below, said(a_run())))
    assert not any(map(below, said(a_run(champion=None, theta0_select_accuracy=0.99))))
    for text in said(a_run(theta0_val_accuracy=1.0, theta0_select_accuracy=0.98, theta0_test_accuracy=0.5)):
        assert below(text)
        assert "select 97.00 % against 98.00 %" in text
        assert "test 95.57 % against" not in text
    # Of earlier runs only test is known; without a select split validation has chosen.
    assert all("test 95.57 % against 96.00 %" in text for text in said(earlier(theta0_test_accuracy=0.96)))
    soups = [soup.model_copy(update={"select_accuracy": None}) for soup in the_soups()]
    table = methods_table(a_run(theta0_val_accuracy=0.99, theta0_select_accuracy=None), soups, a_sweep())
    assert "  below the starting point, theta0:\n  validation 97.75 % against 99.00 %\n" in table


def test_a_best_individual_that_is_the_starting_point_is_called_so():
    only_start = [CoefficientRecord(trial_index=k, layer="model", coefficient=float(k < 0)) for k in (0, 1, -1)]
    coefficients = {**the_results().coefficients, "best-individual": only_start}
    assert "Best individual (starting point) 95.00" in text_of(a_page(coefficients=coefficients))
    assert "Best individual (starting point)" not in text_of(a_page())


def test_the_table_of_methods_says_what_was_used_and_what_it_leaves_out():
    soups = [
        a_soup("best-individual", num_selected=1),
        a_soup("best-individual-renewed", num_selected=1, test_accuracy=0.95),
        a_soup("greedy", epochs=8.1, epochs_of_trials=16),
        a_soup("hl", block_size=16, outer_iterations=1),
        a_soup("mehl", block_size=16, outer_iterations=1),
        a_soup("mehl-plus", block_size=4, outer_iterations=4),
    ]
    text = text_of(a_page(soups=soups))
    assert "8.1 (+16)" in text
    assert "one for each ingredient that the trials had made already" in text
    assert "MEHL-Soup had all ingredients in one block (b = K): MEHL-Soup is HL-Soup then" in text
    assert "what a soup gains over that row is due to mixing" in text
    assert "  mehl had all ingredients in one block" in methods_table(a_run(champion="greedy"), soups, a_sweep())
    assert "trial alone changes its accuracy by +0.50 points; to that mixing adds -0.50." in text
    older = text_of(a_page())
    assert "(+16)" not in older
    assert "one block" not in older
    assert "renewed on training images" not in older


def test_with_a_price_the_sweep_costs_money():
    sweep = [an_ingredient(index, gpu_hours=hours, device="H200") for index, hours in enumerate((1.5, 2.5))]
    assert "cost 4 GPU hours (10 at 2.5 per GPU hour)." in text_of(
        a_page(run=a_run(price_per_gpu_hour=2.5), ingredients=sweep)
    )
    assert " per GPU hour" not in text_of(a_page(ingredients=sweep))


def test_the_overview_says_what_equal_accuracy_costs_and_what_the_last_hours_brought():
    text = text_of(a_page())
    assert "For 94.90 % test accuracy Greedy soup needed 0.025 CPU core hours, MEHL-Soup+ 0.01." in text
    assert "Greedy soup did not reach the 95.57 % of MEHL-Soup+." in text
    assert (
        "costs 2.5 times as much as MEHL-Soup+ for the same accuracy (95 % interval 1 to 4, so it may be chance)"
        in text
    )
    sure = text_of(a_page(cost_ratios=[a_ratio(method="hl"), a_ratio(low=1.5, orders=6)]))
    assert "Over 6 orders of the trials Greedy soup costs 2.5 times as much as MEHL-Soup+" in sure
    same = text_of(a_page(cost_ratios=[a_ratio(ratio=1.0, low=0.4, high=2.1)]))
    assert "costs as much as MEHL-Soup+ for the same accuracy (95 % interval of the ratio 0.4 to 2.1)." in same
    assert "(95 % interval 1.5 to 4)." in sure
    assert "from 12 to 16 ingredients, changed the select accuracy of MEHL-Soup+ by +0.44 pp. The test" in text

    def last_step(**changes):
        costs = the_costs(a_sweep())
        return text_of(
            a_page(cost_accuracy=[*costs[:-1], costs[-1].model_copy(update=changes)], run=a_run(price_per_gpu_hour=3))
        )

    unsure = last_step(select_gain_low=-0.01, select_gain_high=0.02, gain_low=0.001, gain_high=0.03)
    assert "pp (95 % interval -1.00 to +2.00). That does not tell whether more trials would pay off." in unsure
    assert "The test accuracy, which decides nothing, changed by +0.44 pp (95 % interval +0.10 to +3.00)" in unsure
    assert "in money" in unsure


def test_select_alone_decides_what_is_advised():
    def advice(last, before=None):
        costs = the_costs(a_sweep())
        costs[-1] = costs[-1].model_copy(update=last)
        costs[-3] = costs[-3].model_copy(update=before or {})
        return text_of(a_page(cost_accuracy=costs, cost_ratios=[]))

    better_on_test = {"test_accuracy": 0.99, "gain_low": 0.01, "gain_high": 0.03}
    worse_on_select = {"select_accuracy": 0.5, "select_gain_low": -0.4, "select_gain_high": 0.02}
    assert "That is no reason for more trials." in advice(better_on_test | worse_on_select)
    worse_on_test = {"test_accuracy": 0.5, "gain_low": -0.5, "gain_high": -0.3}
    better_on_select = {"select_accuracy": 0.99, "select_gain_low": 0.01, "select_gain_high": 0.05}
    assert "More trials may still pay off." in advice(worse_on_test | better_on_select)
    without = {"select_accuracy": None}
    assert "Without a select split nothing can tell whether" in advice(better_on_test | without, without)
    # What the overview tells of the champion stands beside what the other curves say.
    both = advice(worse_on_test | better_on_select)
    assert "MEHL-Soup+ 12 to 16 +3.19 +1.00 to +5.00 -45.81 -50.00 to -30.00 More trials may still pay off" in both
    assert "Greedy soup 12 to 16 +0.33 - +0.33 - -" in both


def test_costs_in_two_units_stand_beside_each_other():
    sweep = [
        an_ingredient(0, device="cpu", gpu_hours=5),
        an_ingredient(1, device="NVIDIA H200", gpu_hours=2),
        an_ingredient(2, device="cpu and NVIDIA H200", gpu_hours=1, cpu_core_hours=4),
    ]
    points = [
        row.model_copy(update={"gpu_hours": float(n), "cpu_core_hours": 5.0 + 4 * n})
        for n, row in enumerate(the_costs(a_sweep())[:4])
    ]
    run = a_run(price_per_gpu_hour=2, theta0_device="cpu", theta0_gpu_hours=1.5)
    text = text_of(a_page(run=run, ingredients=sweep, cost_accuracy=points, cost_ratios=[]))
    assert "cost 3 GPU hours and 9 CPU core hours (6 at 2 per GPU hour)" in text
    assert "The starting point they share cost 1.5 CPU core hours" in text
    assert "Cost (GPU hours) Cost (CPU core hours)" in text
    assert "Ingredients GPU hours CPU core hours" in text
    assert "The last 2 GPU hours and 8 CPU core hours, from 4 to 8 ingredients" in text
    assert "Cost so far (GPU hours)" in a_page(ingredients=sweep, cost_accuracy=points)
    lines = methods_table(run, the_soups(), sweep).splitlines()
    assert lines[-2].endswith("3 GPU hours and 9 CPU core hours")
    assert lines[-1] == "  theta0: 1.5 CPU core hours beside that"


def test_what_was_not_studied_has_no_section():
    names = ("elimination", "ablation", "wise_ft", "similarity")
    html = a_page(**{name: [] for name in names}, coefficients={}, cost_ratios=[a_ratio(orders=5)])
    outline = Outline(html)
    ids = {value for name, value in outline.attributes if name == "id"}
    assert {"methods", "cost", "sweep"} <= ids
    assert not {"elimination", "ablation", "interpolation", "similarity", "coefficients"} & ids
    whole = {value for name, value in Outline(a_page()).attributes if name == "id"}
    assert {"elimination", "ablation", "interpolation", "similarity", "coefficients"} <= whole


def test_methods_without_coefficients_are_ensembles_whatever_they_are_called():
    told = "An ensemble runs all its selected models for every prediction"
    assert told in text_of(a_page())
    assert told not in text_of(a_page(soups=[soup for soup in the_soups() if soup.method != "ensemble"]))
    assert told in text_of(a_page(soups=[*the_soups()[:3], a_soup("mine")]))


def test_methods_go_by_the_labels_in_the_records():
    run = a_run(champion="mine", labels={"mine": "Mine & Yours"})
    text = text_of(a_page(run=run, soups=[a_soup("mine"), a_soup("other")]))
    assert "Mine &amp; Yours is the champion" in text
    assert " other 96.00 " in text
    both = [
        the_results(run=run, soups=[a_soup("mine")]),
        the_results(run=a_run(labels={"other": "Other"}), soups=[a_soup("mine"), a_soup("other")]),
    ]
    compared = text_of(comparison_page(both).replace(get_plotlyjs(), ""))
    assert "Mine &amp; Yours 94.50 94.50 94.50 0.00 Other - 94.50" in compared


def test_ablations_are_in_order_and_seeds_are_summed_up():
    text = text_of(a_page())
    assert re.search(
        r"MEHL-Soup\+ block_size 2 96\.00 .* MEHL-Soup\+ block_size 18 \(run\) .* MEHL-Soup\+ block_size none ", text
    )
    assert "MEHL-Soup+ by 3 seeds: mean 91.00 %, standard deviation 1.00 pp." in text


def test_extrapolating_coefficients_are_counted():
    # Of 18 coefficients 1/6 ± 0.2, 0.4, 0.6 all but 1/6 + 0.2, + 0.4, + 0.6 (three each) are below 0.
    assert "MEHL-Soup+ 3 -0.4333 0.7667 0.4320 50.00 %" in text_of(a_page())


def test_every_figure_offers_its_data():
    html = a_page()
    (link,) = re.findall(r'download="cost_accuracy.csv" href="data:text/csv;charset=utf-8,([^"]*)"', html)
    lines = unquote(link).splitlines()
    assert lines[0] == "series,Cost so far (CPU core hours),Test accuracy (%),low,high"
    points = the_costs(a_sweep())
    assert len(lines) == 1 + len(points) + 1
    assert lines[-1] == "Starting point,0,61.370000000000005"
    assert len(re.findall('class="chart( map| rows)?"', html)) == html.count("Its data as CSV")


def test_several_runs_stand_side_by_side():
    one = the_results(run=a_run(name="one"))
    two = the_results(run=a_run(name="two", sweep_id="other"), soups=the_soups()[:3], cost_accuracy=[])
    html = comparison_page([one, two]).replace(get_plotlyjs(), "")
    Outline(html)
    text = text_of(html)
    assert "MEHL-Soup+ of one has the highest select accuracy of a champion: 97.00 %; on test it" in text
    assert "Greedy soup 94.50 94.50 94.50 0.00" in text
    assert "MEHL-Soup+ 95.57 - - -" in text
    again = text_of(comparison_page([one, one]).replace(get_plotlyjs(), ""))
    assert "digits" not in again
    assert f"one ({one.run.sweep_id}): " not in again  # in a chart, not in the text
    assert again.count(f"one ({one.run.sweep_id})") >= 4
    assert '"name":"one: MEHL-Soup+"' in html
    assert '"name":"two' not in html


class MineRecord(Record):
    question: str
    answer: float


def test_a_section_may_come_from_elsewhere(monkeypatch, tmp_path):
    def plots(results):
        rows = results.table("mine", MineRecord)
        series = Series("Answer", "#D1495B", "o", "circle", x=range(len(rows)), y=[row.answer for row in rows])
        return [LinePlot("answers", "Answers by question", "Question", "Answer", [series])] if rows else []

    def body(results, plots):
        return paragraph("What I asked & got.") + chart(plots["answers"]) if plots else ""

    monkeypatch.setitem(SECTIONS, "mine", Section("My own question", body, plots))
    folder = RunFolder(tmp_path)
    write_run(folder, a_run())
    tables = {"mine": MineRecord}
    assert 'id="mine"' not in page(read_results(tmp_path, tables))

    write_table(
        folder.table("mine"), [MineRecord(question="a", answer=1), MineRecord(question="b", answer=2)], MineRecord
    )
    paths = write_report(tmp_path, read_results(tmp_path, tables))
    assert [path.name for path in paths] == ["report.html", "answers.png", "answers.svg"]
    html = folder.report.read_text().replace(get_plotlyjs(), "")
    assert '<li><a href="#mine">Mine</a></li>' in html
    assert '<section id="mine"><h2>My own question</h2><p>What I asked &amp; got.</p><figure>' in html
    assert 'Plotly.newPlot("answers-chart"' in html


def test_the_table_of_the_command_line_is_quick_to_import():
    slow = ("torch", "ray", "mlflow", "plotly", "matplotlib", "scipy")
    code = f"import sys, pipeline.report; print([name for name in {slow} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_curve_of_one_point_says_nothing_of_a_last_step():
    html = a_page(cost_accuracy=the_costs(a_sweep())[:2])
    assert "The last " not in text_of(html)
    assert "<p></p>" not in html


def scored(results):
    """The same run, its trials, soups and cost curve, decided by another metric, by which everything has 0.25 less."""
    splits = ("val", "select", "test")

    def row_of(row):
        known = {split: getattr(row, f"{split}_accuracy") for split in splits}
        return row.model_copy(
            update={f"{split}_score": value - 0.25 for split, value in known.items() if value is not None}
        )

    theta0 = {split: getattr(results.run, f"theta0_{split}_accuracy") - 0.25 for split in splits}
    metric = {"metric": "matthews", "metric_label": "Matthews correlation", "theta0_scores": theta0}
    return RunResults(
        run=results.run.model_copy(update=metric),
        ingredients=[row_of(row) for row in results.ingredients],
        soups=[row_of(row) for row in results.soups],
        studies={
            "cost_accuracy": [row_of(row) for row in results.studies["cost_accuracy"]],
            "comparisons": results.studies["comparisons"],
        },
    )


def test_another_metric_is_what_the_page_and_the_table_show_and_name():
    results = the_results()
    by_metric = scored(results)
    text = text_of(page(by_metric).replace(get_plotlyjs(), ""))
    assert "Test Matthews correlation 70.57 %" in text
    assert "has the best Matthews correlation on the select split (72.00 %" in text
    assert "Starting point 37.25 37.00 36.37 -" in text
    assert "Cost against Matthews correlation" in text
    assert "95.57" not in text
    assert "accuracy" not in text.replace("cost_accuracy", "").lower()
    assert "Wilson" not in text
    assert "McNemar" not in text
    table = methods_table(by_metric.run, by_metric.soups, by_metric.ingredients)
    assert re.search(r"theta0 +37\.25 +37\.00 +36\.37", table)
    assert re.search(r"\* mehl-plus +\d\d\.\d\d +72\.00 +70\.57", table)
    assert "* champion: best select Matthews correlation of a single model" in table


def test_runs_by_different_metrics_are_not_averaged():
    results = the_results()
    other = scored(results)
    text = text_of(comparison_page([results, other]).replace(get_plotlyjs(), ""))
    assert "The runs are decided by different metrics (Matthews correlation, accuracy), which do not compare." in text
    assert "has the highest select" not in text
    assert "Greedy soup 94.50 69.50 - -" in text
    text = text_of(comparison_page([other, other]).replace(get_plotlyjs(), ""))
    assert "has the highest select Matthews correlation of a champion: 72.00 %" in text
    assert "Greedy soup 69.50 69.50 69.50 0.00" in text
