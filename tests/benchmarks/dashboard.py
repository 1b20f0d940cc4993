"""How long the dashboard takes to show the newest sweep of a registry, of 1,000 trials, in a real browser.

    python tests/benchmarks/dashboard.py [--trials 1000]

Makes a registry with a small sweep and then one of so many trials, with a curve of two methods, starts the command, and
opens its page in Chromium: until the tables and curves are drawn, and until the parallel coordinates are, which come
last. What was read and loaded when the command started is there at the first visit. Then as many coordinates of a
single trial, on the same page: what plotly and WebGL take before they draw any line. Writes `results/dashboard.json`.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from recording import record

ROOT = Path(__file__).resolve().parents[2]
sys.path += [str(ROOT / "tests"), *(str(ROOT / "tests" / folder) for folder in ("report", "dashboard"))]
from made_registry import finished_sweep, running_sweep  # noqa: E402
from report_browser import Page, chromium  # noqa: E402

DRAWN = {"all else": ("#trials-table tr", "#curves .main-svg"), "parallel coordinates": ("#parallel canvas",)}
VISITS = 4  # of which the first finds a browser that has kept nothing


def main() -> None:
    """Make, measure, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    trials = parser.parse_args().trials
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        uri = f"sqlite:///{home / 'mlflow.db'}"
        finished_sweep(uri, home / "small", "small", "sweep-0")
        running_sweep(uri, home / "large", "large", "sweep-1", size=trials)
        start = time.perf_counter()
        command = [sys.executable, "-m", "pipeline", "dashboard", "--tracking-uri", uri, "--port", "0"]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
            assert server.stdout is not None
            line = next(line for line in server.stdout if "http://" in line)
            started = time.perf_counter() - start
            url = next(word for word in line.split() if word.startswith("http://"))
            with chromium(home / "profile") as page:
                visits = [open_page(page, url, trials) for _ in range(VISITS)]
                one_line = draw_one_line(page)
            server.terminate()
    record("dashboard", trials=trials, started=started, visits=visits, one_line=one_line)


def open_page(page: Page, url: str, trials: int) -> dict[str, float]:
    """Seconds until the parts of the large sweep's page are drawn."""
    page.call("Page.navigate", url="about:blank")
    start, seconds = time.perf_counter(), {}
    page.call("Page.navigate", url=url)
    for name, parts in DRAWN.items():
        counts = [f"document.querySelectorAll('{part}').length > 0" for part in parts]
        drawn = " && ".join([*counts, f"document.body.innerText.replaceAll(',', '').includes('{trials}')"])
        while not page.value(drawn):
            time.sleep(0.02)
            assert time.perf_counter() - start < 300, page.value("document.body.innerText")
        seconds[name] = time.perf_counter() - start
    return seconds


def draw_one_line(page: Page) -> float:
    """Seconds until plotly has drawn one line over as many axes as the page's parallel coordinates have."""
    page.value(
        "const axes = document.querySelector('#parallel .js-plotly-plot').data[0].dimensions"
        ".map(() => ({values: [1]}));"
        "const start = performance.now(), part = document.body.appendChild(document.createElement('div'));"
        "Plotly.newPlot(part, [{type: 'parcoords', dimensions: axes}])"
        ".then(() => { window.tookMilliseconds = performance.now() - start; }); 1"
    )
    while not page.value("window.tookMilliseconds"):
        time.sleep(0.02)
    return page.value("window.tookMilliseconds") / 1000


if __name__ == "__main__":
    main()
