"""What the page shows of what was read: figures, tables, files to take away."""

import csv
import io
import json
import logging
import math
from dataclasses import replace

import pytest
from report_records import a_sweep, an_ingredient

from pipeline.dashboard import Reader, make_app
from pipeline.dashboard import layout as layout_module
from pipeline.dashboard import page as page_module
from pipeline.dashboard.figures import curves, line_figure, soups
from pipeline.dashboard.parallel import parallel
from pipeline.dashboard.shown import shown
from pipeline.dashboard.tables import MOST_POINTS, MOST_ROWS, csv_of, facts_of, gains, status_of, trials
from pipeline.dashboard.tables import soups as soups_table
from pipeline.records.hyperparameters import shown as as_text
from pipeline.registry import list_sweeps, look, open_sweep
from pipeline.report.intervals import interval
from pipeline.report.markup import Link


@pytest.fixture(scope="module")
def looks(made):
    return {sweep.sweep_id: look(sweep) for sweep in list_sweeps(made.uri)}


@pytest.fixture
def digits(looks):
    return shown({"sweep-1": looks["sweep-1"]})


def changed(looks, **values):
    return shown({"sweep-1": replace(looks["sweep-1"], **values)})


def texts(table):
    return [[cell.text if isinstance(cell, Link) else cell for cell in row] for row in table.rows]


@pytest.mark.parametrize(("split", "size"), [("select", 100), ("test", 497)])
def test_a_curve_has_the_intervals_of_its_split(digits, split, size):
    plot = curves(digits, split)
    greedy, mehl, start = plot.series
    assert [series.label for series in plot.series] == ["greedy", "mehl-plus", "Starting point"]
    assert start.y == pytest.approx([62.0 if split == "select" else 61.37])
    assert greedy.colour != mehl.colour
    points = [point for point in digits[0].look.curves[0].points if point.num_ingredients]
    assert greedy.x == [point.gpu_hours for point in points]
    for point, low, high in zip(points, greedy.low, greedy.high, strict=True):
        bounds = interval(getattr(point, f"{split}_accuracy"), size)
        assert (low, high) == pytest.approx([100 * bound for bound in bounds])
    assert greedy.band
    assert "CPU core hours" in plot.x_title


def test_another_metric_has_no_interval(looks):
    sweep = looks["sweep-1"].sweep
    other = changed(looks, sweep=replace(sweep, origin={**sweep.origin, "metric": "macro_f1"}))
    plot = curves(other, "select")
    assert plot.series[0].low == []
    assert plot.y_title == "Select macro F1 (%)"


def test_overlaid_sweeps_have_a_colour_each_and_methods_their_markers(looks):
    plot = curves(shown(looks), "test")
    assert [series.label for series in plot.series] == [
        "digits: Greedy soup", "digits: MEHL-Soup+", "cifar: Greedy soup", "cifar: MEHL-Soup+"
    ]  # fmt: skip
    one, two, three, four = plot.series
    assert one.colour == two.colour != three.colour == four.colour
    assert one.symbol == three.symbol != two.symbol == four.symbol


def test_what_a_name_holds_is_text(looks):
    sweep = looks["sweep-1"].sweep
    other = replace(looks["sweep-1"], sweep=replace(sweep, name="<b onclick=x>"))
    sweeps = shown({"sweep-1": other, "sweep-0": looks["sweep-0"]})
    assert "<b onclick" not in curves(sweeps, "test").series[0].hover[0]
    assert "&lt;b onclick=x&gt;" in written_at(parallel(sweeps, "test"), 0)
    written = page_module._draw(sweeps, "test", "newest", "png")["written"]
    assert "&lt;b onclick=x&gt;" in written["facts"]
    assert not any("<b onclick" in text for text in written.values())


def test_new_points_leave_the_zoom(looks, digits):
    fewer = [replace(curve, points=curve.points[:3]) for curve in looks["sweep-1"].curves]
    before, after = line_figure(curves(changed(looks, curves=fewer), "test")), line_figure(curves(digits, "test"))
    assert len(before.data[-2].x) < len(after.data[-2].x)
    assert before.layout.uirevision == after.layout.uirevision


@pytest.fixture
def coordinates(looks):
    return parallel(shown({"sweep-0": looks["sweep-0"]}), "test")


def lines_of(figure):
    """Of every line of parallel coordinates: what its trial is called, its places on the axes, its colour."""
    size = len(figure.layout.xaxis.ticktext) + 1
    for trace in figure.data[:-1]:
        for start in range(0, len(trace.x), size):
            assert list(trace.x[start : start + size - 1]) == list(range(size - 1))
            assert math.isnan(trace.y[start + size - 1]), "the next line begins anew"
            yield trace.customdata[start], list(trace.y[start : start + size - 1]), trace.line.color


def written_at(figure, axis):
    texts = figure.data[-1]
    return {text.strip(): y for x, y, text in zip(texts.x, texts.y, texts.text, strict=True) if x == axis}


def test_parallel_coordinates_of_what_differs(looks, coordinates):
    assert coordinates.layout.xaxis.ticktext == ("Learning rate", "Augmentation", "CPU core hours", "Test %")
    rows = {row.trial_index: row for row in looks["sweep-0"].trials.values() if row.test_accuracy is not None}
    lines = list(lines_of(coordinates))
    assert len(lines) == len(rows)
    scores = written_at(coordinates, 3)
    for told, places, _ in lines:
        row = rows[int(told.split("trial ")[1].split("<")[0])]
        assert f"Learning rate {as_text(row.hyperparameters)['lr']}" in told
        (low, at_low), (high, at_high) = [(float(text), scores[text]) for text in (min(scores), max(scores))]
        there = at_low + (at_high - at_low) * (100 * row.test_accuracy - low) / (high - low)
        assert places[3] == pytest.approx(there, abs=0.01)
    rates = written_at(coordinates, 0)
    assert [rates[text] for text in ("1e-05", "0.0001", "0.001")] == [0, 0.5, 1], "on a logarithmic axis"
    assert written_at(coordinates, 1) == {"RandAugment n=2 m=9": 0, "minimal": 1}


def test_the_best_lines_are_drawn_last_and_are_first_in_the_legend(coordinates):
    heights = [places[-1] for _, places, _ in lines_of(coordinates)]
    assert heights == sorted(heights)
    colours = [colour for _, _, colour in lines_of(coordinates)]
    assert colours[0] != colours[-1]
    assert coordinates.layout.legend.traceorder == "reversed"
    assert coordinates.data[-2].name.endswith(" %")


def test_a_hyperparameter_that_is_not_known_leaves_a_gap(looks):
    sweep = looks["sweep-0"]
    first, *others = sweep.trials
    trials = {first: sweep.trials[first].model_copy(update={"lr": None})}
    trials |= {run_id: sweep.trials[run_id] for run_id in others}
    figure = parallel(shown({"sweep-0": replace(sweep, trials=trials)}), "test")
    assert figure.layout.xaxis.ticktext[0] == "Learning rate"
    assert sum(math.isnan(places[0]) for _, places, _ in lines_of(figure)) == 1
    assert written_at(figure, 0)["0.0001"] == 0.5


def test_sweeps_beside_each_other_have_an_axis(looks):
    figure = parallel(shown(looks), "select")
    assert figure.layout.xaxis.ticktext[0] == "Sweep"
    assert set(written_at(figure, 0)) == {"cifar", "digits"}
    assert any("cifar, trial " in told for told, _, _ in lines_of(figure))


def test_no_parallel_coordinates_without_a_score(looks):
    assert parallel(changed(looks, trials={}), "test") is None


def test_soups_side_by_side(looks):
    plot = soups(shown(looks), "select")
    assert plot.ticks[0] == "MEHL-Soup+"
    (series,) = plot.series
    assert series.label == "cifar"
    assert series.y[0] == pytest.approx(97)
    assert series.low[0] < 97 < series.high[0]
    table = soups_table(shown(looks))
    rows = texts(table)
    assert rows[0][:4] == ["cifar", "MEHL-Soup+", "97.00", "91.55 to 98.97"]
    assert table.marked == {0}, "the champion"


def test_what_a_sweep_is_at(digits):
    facts = dict(facts_of(digits[0]))
    assert facts["Trials"] == "16 finished, 1 failed, 1 rejected, 2 running of 24"
    assert facts["Cost of the trials that ended"].startswith("0.0326 CPU core hours")
    assert facts["Price"] == "0.0815 in money, at 2.5 an hour"
    assert facts["Budget"] == "0.0326 of 0.05 CPU core hours (65 %)"
    assert facts["Budget, in money"] == "0.0815 of 0.2 (41 %)"
    assert "stays below 1.00 pp" in facts["Stop rule"]
    assert "Stopped by its rule" not in facts


def test_a_sweep_that_its_rule_stopped(looks):
    sweep = looks["sweep-0"].sweep
    (stopped,) = shown(
        {"sweep-0": replace(looks["sweep-0"], sweep=replace(sweep, origin={**sweep.origin, "stopped": "no gain"}))}
    )
    facts = dict(facts_of(stopped))
    assert facts["Stopped by its rule"] == "no gain"
    assert facts["Status"].startswith("stopped by its rule")
    assert status_of(replace(stopped.look.sweep, status="FAILED")) == "failed", "after it was stopped"
    assert facts["Champion"] == "MEHL-Soup+, select 97.00 %, test 95.57 %"


def test_what_the_stop_rule_sees(digits):
    greedy = [row for row in texts(gains(digits)) if row[0] == "greedy"]
    assert [row[1] for row in greedy] == ["16", "12", "8", "4"], "the last first"
    assert [row[7] for row in greedy] == ["below 1.00, 2 in a row", "below 1.00, 1 in a row", "not below 1.00", "-"]
    before, after = digits[0].look.curves[0].points[1:3]
    upper = 100 * 0.03 / (after.gpu_hours - before.gpu_hours) * 0.005
    assert greedy[2][6] == f"{upper:+.2f}"
    assert greedy[2][5] == "-1.00 to +3.00"


def test_of_long_curves_the_last_points_of_every_method_are_seen(looks):
    long = [
        replace(
            curve,
            points=[
                point.model_copy(update={"num_ingredients": n})
                for point in curve.points[-1:]
                for n in range(1, MOST_ROWS + 51)
            ],
        )
        for curve in looks["sweep-1"].curves
    ]
    table = gains(changed(looks, curves=long))
    for method in ("greedy", "mehl-plus"):
        shown_points = [int(row[1]) for row in texts(table) if row[0] == method]
        assert shown_points == list(range(MOST_ROWS + 50, MOST_ROWS + 50 - MOST_POINTS, -1))
    assert table.caption.endswith(f"; the last {MOST_POINTS} points of each curve, the CSV has all")


def test_without_a_rule_and_without_settings(looks):
    bare = changed(looks, settings={})
    assert {"Budget", "Price", "Stop rule"} & dict(facts_of(bare[0])).keys() == set()
    assert {row[7] for row in texts(gains(bare))} == {"-"}


def test_trials_come_running_ones_first(looks, digits):
    rows = texts(trials(digits, "newest"))
    assert [row[0] for row in rows[:4]] == ["19", "18", "17", "16"]
    assert rows[1][1].endswith("training loss 0.7")
    best = texts(trials(digits, "best"))
    scores = [float(row[3]) for row in best if row[3] != "-"]
    assert scores == sorted(scores, reverse=True)
    assert best[2][3] == f"{max(scores):.2f}"
    failed = next(row for row in rows if row[0] == "5")
    assert failed[1].startswith("failed: out of memory")


def test_trials_of_a_sweep_that_was_ended_do_not_run(looks):
    killed = changed(looks, sweep=replace(looks["sweep-1"].sweep, status="KILLED"))
    facts = dict(facts_of(killed[0]))
    assert facts["Status"].startswith("killed, begun")
    assert facts["Trials"] == "16 finished, 1 failed, 1 rejected, 2 interrupted of 24"
    assert texts(trials(killed, "newest"))[0][1].startswith("interrupted, begun ")
    assert [row["status"] for row in read_csv(csv_of("trials", killed))][-2:] == ["interrupted"] * 2


def test_a_long_table_of_trials_says_what_it_leaves_out(looks):
    many = changed(looks, trials={str(row.trial_index): row for row in a_sweep(MOST_ROWS + 50)})
    table = trials(many, "newest")
    assert len(table.rows) == MOST_ROWS
    assert f"{MOST_ROWS + 52} trials" in table.caption
    assert "the CSV has all" in table.caption


def test_runs_are_linked_where_the_registry_has_an_address(looks, digits):
    assert {cell.address for row in trials(digits, "newest").rows for cell in row if isinstance(cell, Link)} == {None}
    sweep = replace(looks["sweep-1"].sweep, tracking_uri="https://me:secret@mlflow.example/base/", experiment_id="7")
    linked = trials(changed(looks, sweep=sweep), "newest")
    run_id = looks["sweep-1"].running[-1].run_id
    assert linked.rows[0][0] == Link("19", f"https://mlflow.example/base/#/experiments/7/runs/{run_id}")


def read_csv(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_everything_can_be_taken_away(made):
    reader = Reader(made.uri)
    reader.first()
    client = make_app(reader).server.test_client()

    def fetch(table):
        answer = client.get(f"/csv/{table}?sweep=sweep-0&sweep=sweep-1", headers={"Host": "localhost"})
        assert answer.headers["Content-Disposition"] == f'attachment; filename="{table}.csv"'
        return read_csv(answer.text)

    rows = fetch("trials")
    assert [row["sweep"] for row in rows] == ["cifar"] * 18 + ["digits"] * 20
    assert (rows[0]["lr"], rows[-1]["status"]) == (repr(a_sweep()[0].hyperparameters["lr"]), "running")
    points = fetch("curves")
    assert len(points) == 20
    assert (points[1]["method"], points[1]["unit"]) == ("greedy", "CPU core hours")
    assert float(points[1]["select_low"]) < float(points[1]["select_accuracy"]) < float(points[1]["select_high"])
    assert [row["method"] for row in fetch("soups")] == [soup.method for soup in page_soups(made)]
    assert client.get("/csv/passwords", headers={"Host": "localhost"}).status_code == 404


def page_soups(made):
    return next(look(sweep).soups for sweep in list_sweeps(made.uri) if sweep.name == "cifar")


def test_only_this_machine_is_answered_and_nothing_is_loaded_from_elsewhere(made):
    client = make_app(Reader(made.uri)).server.test_client()
    assert client.get("/", headers={"Host": "evil.example"}).status_code == 400
    answer = client.get("/", headers={"Host": "127.0.0.1:8050"})
    assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
    assert "unsafe-eval" not in answer.headers["Content-Security-Policy"]
    assert "http://" not in answer.text.replace("http-equiv", "")
    assert "https://" not in answer.text
    asked = make_app(Reader(made.uri), loopback=False).server.test_client()
    assert asked.get("/", headers={"Host": "cluster.example"}).status_code == 200


def test_nothing_can_be_sent_to_plotly(looks):
    sweeps = shown(looks)
    figures = {"parallel": parallel(sweeps, "test")}
    figures |= {name: line_figure(make(sweeps, "test")) for name, make in (("curves", curves), ("soups", soups))}
    for name, figure in figures.items():
        answer = page_module._chart(name, figure, "test", "svg")
        config = answer[f"{name}_config"]
        assert config["modeBarButtons"][0] == ["toImage"]
        assert "sendChartToCloud" not in json.dumps(config)
        assert config["plotlyServerURL"] == ""
        assert config["toImageButtonOptions"]["format"] == "svg"


def ask(reader, **values):
    given = {
        "anew": True,
        "chosen": ["sweep-1"],
        "split": "select",
        "order": "newest",
        "picture": "png",
        "listed": None,
        "drawn": None,
    }
    return page_module._update(reader, "boot", **(given | values))


def seen(answer):
    """What a page keeps of an answer for the next time it asks."""
    return {name: answer[name] for name in ("listed", "drawn")}


def test_a_page_is_drawn_again_when_something_changed(registry, monkeypatch):
    monkeypatch.setattr("pipeline.dashboard.reader._PAUSE", 0.0)
    monkeypatch.setattr("pipeline.dashboard.reader._SHARE", 0.0)
    reader = Reader(registry.uri)
    reader.first()
    first = ask(reader)
    again = ask(reader, **seen(first))
    assert {name for name, value in again.items() if value is not page_module.no_update} == {"status", "away", "beat"}
    other = ask(reader, **seen(first), split="test")
    assert other["curves_figure"] is not page_module.no_update
    assert other["parallel_figure"].layout.xaxis.ticktext[-1] == "Test %"
    sweep = reader.state([]).sweeps[0]
    sweep.client().set_tag(sweep.run_id, "stopped", "no gain")
    sweep.client().set_terminated(sweep.run_id)
    changed = ask(reader, **seen(first))
    assert "stopped by its rule" in str(changed["options"])
    assert "no gain" in changed["written"]["facts"]


def test_a_sweep_that_cannot_be_drawn_does_not_end_the_command(made, monkeypatch, caplog):
    def broken(*_):
        raise ValueError("no such column")

    monkeypatch.setattr(page_module, "curves", broken)
    reader = Reader(made.uri)
    reader.first()
    assert make_app(reader).layout is not None
    assert "the page cannot be drawn (ValueError: no such column)" in caplog.text


def test_a_registry_without_sweeps(store_uri):
    reader = Reader(store_uri)
    reader.first()
    answer = ask(reader, chosen=None)
    assert answer["written"]["facts"] == "<p>The registry has no sweep yet.</p>"
    assert answer["curves_style"] == {"display": "none"}
    assert answer["parallel_style"] == {"display": "none"}
    assert answer["parallel_missing"] == "No trial with a score on this split yet."
    assert layout_module.first(reader.state([]), []) == []


def test_a_page_opened_later_shows_the_latest_sweep_of_then(registry, monkeypatch):
    monkeypatch.setattr("pipeline.dashboard.reader._PAUSE", 0.0)
    monkeypatch.setattr("pipeline.dashboard.reader._SHARE", 0.0)
    reader = Reader(registry.uri)
    reader.first()
    app = make_app(reader)
    open_sweep(registry.uri, "later", "sweep-2", registry.home / "artifacts", {})
    (chosen,) = [part for part in app.layout()._traverse() if getattr(part, "id", None) == "chosen"]
    assert chosen.value == ["sweep-2"]
    assert "running" in ask(reader, anew=False, chosen=["sweep-2"])["written"]["facts"]


def test_a_mistake_of_ours_is_told_once(caplog):
    tell = page_module._Errors()
    with caplog.at_level(logging.ERROR, "pipeline"):
        for _ in range(3):
            tell(ValueError("no such column"))
    assert len(caplog.records) == 1


def test_csv_of_trials_of_different_trainers(looks):
    own = {"a": an_ingredient(0, shrink=0.5), "b": an_ingredient(1)}
    rows = read_csv(csv_of("trials", changed(looks, trials=own, running=())))
    assert [row["shrink"] for row in rows] == ["0.5", ""]
