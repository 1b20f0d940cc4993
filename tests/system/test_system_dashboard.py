"""The dashboard in a real browser, over a real MLflow server that goes away and comes back.

The pictures lie in pytest's temporary folder, to be looked at.
"""

import signal
import sys
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest
from program import ROOT, Background, environment, needs_mlflow, wait_for
from servers import sqlite_server

sys.path.append(str(ROOT / "tests" / "report"))
sys.path.append(str(ROOT / "tests" / "dashboard"))
from made_registry import finished_sweep, running_sweep
from report_browser import CHROMIUM, chromium, needs_axe
from report_records import an_ingredient

from pipeline.registry import find_sweep
from pipeline.registry.ingredients import log_row

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(1200),
    needs_mlflow,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
]
_LEGEND = "document.querySelector('#curves .legend').textContent"
_COUNT = "document.querySelectorAll('{}').length"


@pytest.fixture(scope="module")
def server(migrated_store, tmp_path_factory):
    home = tmp_path_factory.mktemp("registry")
    with sqlite_server(home, migrated_store) as server:
        finished_sweep(server.uri, home / "cifar", "cifar", "sweep-0")
        running_sweep(server.uri, home / "digits", "digits", "sweep-1")
        yield server


@pytest.fixture(scope="module")
def dashboard(server, tmp_path_factory):
    command = [sys.executable, "-m", "pipeline", "dashboard", "digits", "--tracking-uri", server.uri, "--port", "0"]
    log = tmp_path_factory.mktemp("dashboard") / "log"
    with Background(command, environment(), log) as running:
        running.wait_for_output("Ctrl-C ends it", 120)
        yield running


@pytest.fixture(scope="module")
def url(dashboard):
    return [word for word in dashboard.output().split() if word.startswith("http://127.0.0.1")][-1]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("chromium") / "profile") as page:
        yield page


def visit(page, url, width=1280, dark=False):
    page.events.clear()
    scheme = "dark" if dark else "light"
    page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    page.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
    page.call("Page.navigate", url="about:blank")
    page.call("Page.navigate", url=url)
    drawn = " && ".join(
        f"{_COUNT.format(what)} > 0" for what in ("#trials-table tr", "#curves .main-svg", "#parallel .js-line")
    )
    wait_for(lambda: page.value(drawn), "the page", 120)


def text_of(page, part):
    return " ".join((page.value(f"document.querySelector('{part}').innerText") or "").split())


def wait_for_text(page, part, text, seconds=60):
    try:
        wait_for(lambda: text in text_of(page, part), f"'{text}' in {part}", seconds)
    except AssertionError as error:
        raise AssertionError(f"{error}; it has: {text_of(page, part)}") from None


def complaints(page, url):
    """Exceptions, errors, and requests for anything from elsewhere."""
    found = []
    for event in page.events:
        method, params = event["method"], event["params"]
        if method == "Runtime.exceptionThrown":
            found.append(str(params["exceptionDetails"].get("exception") or params["exceptionDetails"]["text"]))
        elif (method == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert")) or (
            method == "Log.entryAdded" and params["entry"]["level"] == "error"
        ):
            found.append(str(params))
        elif method == "Network.requestWillBeSent":
            asked = params["request"]["url"]
            if urlsplit(asked).scheme.startswith("http") and urlsplit(asked).netloc != urlsplit(url).netloc:
                found.append(asked)
    return found


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page(page, url, width, dark, tmp_path):
    visit(page, url, width, dark)
    assert complaints(page, url) == []
    assert page.value("document.documentElement.scrollWidth") == width, "the page scrolls sideways"
    boxes = page.value("[...document.querySelectorAll('.scroll')].map(box => box.getBoundingClientRect().right)")
    assert boxes
    assert max(boxes) <= width
    ground, ink = (page.value(f"getComputedStyle(document.body).{name}") for name in ("backgroundColor", "color"))
    assert (sum(map(int, ground[4:-1].split(","))) < 200) is dark
    assert (sum(map(int, ink[4:-1].split(","))) > 500) is dark
    for name in ("curves", "parallel"):
        assert page.value(f"document.querySelector('#{name}').getBoundingClientRect().height") > 300
    assert page.value(_COUNT.format("#curves .js-fill")) == 2, "a band for each line"
    buttons = page.value("[...document.querySelectorAll('.modebar-btn')].map(one => one.dataset.title)")
    assert any("Download plot" in button for button in buttons)
    assert not any("Share" in button for button in buttons), "it would send the chart to Plotly"
    page.screenshot(tmp_path / f"dashboard-{width}-{'dark' if dark else 'light'}.png")


@needs_axe
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_keeps_people_from_reading_it(page, url, width, dark):
    visit(page, url, width, dark)
    page.value("document.querySelectorAll('#chosen input')[1].click()")
    wait_for_text(page, "#soups-table", "MEHL-Soup+")
    assert page.violations() == []


def test_another_sweep_and_split_are_chosen(page, url, server, tmp_path):
    visit(page, url)
    assert "No soup measured" in text_of(page, "#soups-missing")
    page.value("document.querySelectorAll('#chosen input')[1].click()")
    wait_for_text(page, "#soups-table", "MEHL-Soup+")
    assert page.value(_COUNT.format("article")) == 2
    wait_for(lambda: "cifar: Greedy soup" in page.value(_LEGEND), "the curve of cifar", 60)
    page.value("document.querySelectorAll('#split input')[1].click()")
    wait_for(
        lambda: "Test accuracy (%)" in page.value("document.querySelector('#curves').textContent"), "the test split", 60
    )
    link = page.value("document.querySelector('#soups-table a').href")
    assert link.startswith(f"{server.uri}/#/experiments/{find_sweep(server.uri, 'cifar').experiment_id}/runs/")
    taken = urlopen(page.value("document.querySelector('#trials-csv').href"), timeout=30).read().decode()
    assert taken.count("\ncifar,") == 18
    assert complaints(page, url) == []
    page.screenshot(tmp_path / "two-sweeps.png")


def record(server, index):
    sweep = find_sweep(server.uri, "digits")
    client = sweep.client()
    run_id = sweep.child_run(client, "trial", str(index), f"trial {index}")
    log_row(sweep, client, run_id, an_ingredient(index), {})


def test_it_follows_the_registry_which_goes_away_and_comes_back(page, url, server, dashboard):
    visit(page, url)
    record(server, 18)
    wait_for_text(page, "#facts", "17 finished, 1 failed, 1 rejected, 1 running")
    server.kill()
    wait_for_text(page, "#away", "when the registry last answered", 120)
    assert "17 finished" in text_of(page, "#facts")
    wait_for(lambda: page.value(_COUNT.format("#curves .main-svg")), "the curve", 5)
    told = dashboard.output().count("\n")
    server.start()
    record(server, 19)
    wait_for_text(page, "#facts", "18 finished, 1 failed, 1 rejected of 24", 120)
    assert text_of(page, "#away") == ""
    output = dashboard.output()
    assert "Traceback" not in output
    assert told == 2, output  # where it is, and that the registry is away
    assert output.count("\n") == 3, output


def test_it_ends_and_the_page_says_so(page, url, dashboard, tmp_path):
    assert dashboard.listens_on() == {"127.0.0.1"}
    visit(page, url)
    dashboard.process.send_signal(signal.SIGINT)
    assert dashboard.process.wait(60) == 0
    assert "Traceback" not in dashboard.output()
    wait_for_text(page, "#lost", "has not answered since", 90)
    assert "finished" in text_of(page, "#facts")
    page.screenshot(tmp_path / "lost.png")
