"""How long the dashboard takes to show the newest sweep of a registry, of 1,000 trials, in a real browser.

    python tests/benchmarks/dashboard.py [--trials 1000]

Makes a registry with a small sweep and then one of so many trials, with a curve of two methods, starts the command, and
opens its page in Chromium: until the table of trials, the curves and the parallel coordinates are drawn. The first
visit finds nothing read, the second what the first has read. Writes `results/dashboard.json`.
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

DRAWN = ("#trials-table tr", "#curves .main-svg", "#parallel canvas")


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
            seconds = {"start": time.perf_counter() - start}
            url = next(word for word in line.split() if word.startswith("http://"))
            with chromium(home / "profile") as page:
                seconds |= {visit: open_page(page, url, trials) for visit in ("first visit", "second visit")}
            server.terminate()
    record("dashboard", trials=trials, seconds=seconds)


def open_page(page: Page, url: str, trials: int) -> float:
    """Seconds until everything of the large sweep is drawn."""
    page.call("Page.navigate", url="about:blank")
    counts = [f"document.querySelectorAll('{part}').length > 0" for part in DRAWN]
    drawn = " && ".join([*counts, f"document.body.innerText.replaceAll(',', '').includes('{trials}')"])
    start = time.perf_counter()
    page.call("Page.navigate", url=url)
    while not page.value(drawn):
        time.sleep(0.02)
        assert time.perf_counter() - start < 300, page.value("document.body.innerText")
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
