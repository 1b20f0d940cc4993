"""The sections on single classes and examples, on losses by step, and the links to MLflow's runs."""

import re
from dataclasses import replace

import pytest
from report_records import a_picture, a_run, an_example, confused, the_comparisons, the_losses, the_results
from test_report_page import HOSTILE, Outline, a_page, text_of

from pipeline.records import RecordedRuns
from pipeline.report.classes import by_class, in_order
from pipeline.report.figures import draw
from pipeline.report.intervals import interval
from pipeline.report.sections import SECTIONS, plots_of


def part(results, name) -> str:
    section = SECTIONS[name]
    return section.body(results, {plot.name: plot for plot in section.plots(results)})


def with_classes(number, *rows, **changes):
    names = [f"class {index}" for index in range(number)]
    return the_results(run=a_run(class_names=names, **changes), confusions=list(rows))


BETTER = confused("mehl-plus", (0, 0, 9), (0, 1, 1), (1, 1, 30), (2, 2, 5), (2, 0, 5))
WORSE = confused("best-individual", (0, 0, 5), (0, 1, 5), (1, 1, 27), (1, 2, 3), (2, 2, 6), (2, 1, 4))


def test_the_accuracy_of_each_class_has_its_interval():
    results = with_classes(3, *BETTER, *WORSE)
    plot = plots_of(results)["class_accuracy"]
    assert list(plot.ticks) == ["class 0", "class 1", "class 2"]  # from the largest gain to the loss
    champion, best = plot.series
    assert (champion.label, best.label) == ("MEHL-Soup+", "Best individual")
    assert list(champion.y) == pytest.approx([90, 100, 50])
    assert list(best.y) == pytest.approx([50, 90, 60])
    assert (champion.low[0], champion.high[0]) == pytest.approx([100 * end for end in interval(0.9, 10)])
    assert all(one < other for one, other in zip(champion.x, best.x, strict=True))  # side by side
    assert "MEHL-Soup+,class 1,100.0," in plot.csv()
    assert "Best individual,class 2,60.0," in plot.csv()
    rows = text_of(part(results, "classes"))
    assert "class 0 10 90.00 59.58 to 98.21 50.00 23.66 to 76.34 +40.00" in rows
    assert "class 2 10 50.00 23.66 to 76.34 60.00 31.27 to 83.18 -10.00" in rows


def test_of_many_classes_those_that_differ_most_are_drawn_and_the_table_has_all():
    champion = confused("mehl-plus", *((c, c, 100) for c in range(50)))
    best = confused("best-individual", *((c, c, 50 + c) for c in range(50)), *((c, 49, 50 - c) for c in range(49)))
    results = with_classes(50, *champion, *best, *confused("best-individual", (49, 0, 1)))
    assert in_order(by_class(results.studies["confusions"])) == list(range(30))
    html = part(results, "classes")
    assert html.count("<tr>") >= 50
    assert "<details>" in html
    assert "Of 50 classes the 30 that differ most are drawn" in html
    # Too many for a map: the most frequent confusions as a table.
    assert "confusions_0" not in plots_of(results)
    assert "class 0 class 49 0 50" in text_of(html)
    assert html.count("The most frequent mistakes on test") == 2  # the caption, and what a screen reader says


def test_what_is_taken_for_what_is_mapped_in_the_same_colours():
    plots = plots_of(with_classes(3, *BETTER, *WORSE))
    champion, best = plots["confusions_0"], plots["confusions_1"]
    assert champion.values == [[None, 1, 0], [0, None, 0], [5, 0, None]]
    assert best.values == [[None, 5, 0], [0, None, 3], [0, 4, None]]
    assert champion.span() == best.span() == (0, 5)
    assert champion.drawn() == [[None, 1, None], [None, None, None], [5, None, None]], "none is blank"
    for plot in (champion, best):
        draw(plot)


@pytest.mark.parametrize("rows", [confused("greedy", (0, 0, 5), (1, 1, 5), (2, 2, 7)), []])
def test_nothing_wrong_or_nothing_known_is_no_trouble(rows):
    html = part(with_classes(3, *rows, champion="greedy"), "classes")
    assert ("all are right" in html) == bool(rows)
    assert bool(html) == bool(rows)
    assert "Gain" not in html


def test_two_classes_are_listed_and_a_class_without_images_is_left_out():
    html = part(with_classes(2, *confused("mehl-plus", (0, 0, 5), (0, 1, 2))), "classes")
    assert "class 0 class 1 2" in text_of(html)
    assert "confusions_0" not in html
    assert text_of(html).count("class 1") == 1


def test_examples_are_shown_with_their_class_and_both_predictions():
    rows = [an_example(7, 3, 5), an_example(40, 8, 3)]
    results = the_results(examples=rows, comparisons=the_comparisons())
    html = part(results, "examples")
    Outline(html)
    assert html.count(f'src="data:image/png;base64,{a_picture()}"') == 2
    text = text_of(html)
    assert "MEHL-Soup+ right, Best individual wrong (1 of 14)" in text
    assert "Best individual right, MEHL-Soup+ wrong (1 of 6)" in text
    assert "True 3 MEHL-Soup+ 3 Best individual 5" in text
    assert "True 3 MEHL-Soup+ 8 Best individual 3" in text
    assert 'alt="image 40 of the test set"' in html
    assert "There are none." in text_of(part(the_results(examples=rows[:1]), "examples"))
    assert part(the_results(), "examples") == ""


def test_what_is_no_image_is_shown_as_text_and_nothing_of_it_is_markup():
    rows = [
        an_example(1, 3, 5, media_type="text/plain", content=HOSTILE),
        an_example(2, 3, 5, media_type=f"image/{HOSTILE}"),
    ]
    names = [HOSTILE] * 10
    html = part(the_results(run=a_run(class_names=names), examples=rows), "examples")
    outline = Outline(html)
    assert outline.tags.count("img") == 1
    assert not any(name == "onerror" for name, _ in outline.attributes)
    assert "</script>" not in html


def test_a_line_of_losses_has_its_blocks_marked():
    results = replace(the_results(), losses={"mehl": the_losses(2, 4), "mehl-plus": the_losses(40, 50)})
    short, long = plots_of(results)["loss"].series
    assert (short.label, list(short.x)) == ("MEHL-Soup", list(range(8)))
    assert list(short.y) == pytest.approx([2 - i / 8 for i in range(8)])
    assert list(short.numbers) == ["1", "", "", "", "2", "", "", ""]
    assert len(long.x) <= 400  # of 2,000 steps
    marked = [(number, x) for number, x in zip(long.numbers, long.x, strict=True) if number]
    assert len(marked) <= 12
    assert all(x == pytest.approx(50 * (int(number) - 1) + 3) for number, x in marked)  # the mean of its first 7 steps
    assert "MEHL-Soup in 2 blocks of 4 steps, MEHL-Soup+ in 40 blocks of 50 steps" in part(results, "loss")
    draw(plots_of(results)["loss"])
    assert part(the_results(), "loss") == ""


def test_lines_whose_blocks_begin_together_are_numbered_once():
    results = replace(
        the_results(), losses={"hl": the_losses(1, 8), "mehl": the_losses(2, 4), "mehl-plus": the_losses(2, 4)}
    )
    numbers = [[number for number in series.numbers if number] for series in plots_of(results)["loss"].series]
    assert numbers == [["1"], ["2"], []]


def recorded(uri):
    return RecordedRuns(tracking_uri=uri, experiment_id="7", soups={"greedy": "aa11"}, trials={3: "bb22"})


def test_methods_and_trials_lead_to_their_runs_where_these_have_an_address():
    html = a_page(run=a_run(recorded=recorded("https://mlflow.example/base/")))
    links = re.findall(r'<a href="(http[^"]*)"[^>]*>([^<]*)</a>', html)
    assert links == [
        ("https://mlflow.example/base/#/experiments/7/runs/aa11", "Greedy soup"),
        ("https://mlflow.example/base/#/experiments/7/runs/bb22", "3"),
    ]
    assert "mlflow ui" not in html


def test_a_store_without_an_address_has_no_links_and_says_how_to_open_it():
    html = a_page(run=a_run(recorded=recorded("sqlite:////home/me/my runs/mlflow.db")))
    assert not re.search(r'<a href="(http|sqlite)', html)
    assert "mlflow ui --backend-store-uri &#x27;sqlite:////home/me/my runs/mlflow.db&#x27;" in html
    assert "mlflow ui" not in a_page()  # of a run from before its runs were recorded
