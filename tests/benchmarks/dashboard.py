"""How long the dashboard takes to show the newest sweep of a registry, of 1,000 trials, in a real browser.

    python tests/benchmarks/dashboard.py [--trials 1000]

Makes a registry with a small sweep and then one of so many trials, with a curve of two methods, starts the command, and
opens its page in browsers that have kept nothing yet, several times each: seconds from asking for the page until its
last part is painted. What was read and loaded when the command started is there at the first visit. Writes
`results/dashboard.json`.
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

# In the page, before anything of it: the time from asking for it until the frame that shows the last of its parts.
WATCH = """
const parts = ["#facts dd", "#gains-table tr", "#trials-table tr", "#curves .js-line", "#parallel .js-line"];
new MutationObserver((_, watching) => {
  if (!parts.every(part => document.querySelector(part))) return;
  watching.disconnect();
  requestAnimationFrame(() => setTimeout(() => { window.paintedAt = performance.now(); }));
}).observe(document, { subtree: true, childList: true });
"""
BROWSERS, VISITS = 3, 4


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
            browsers = [visit(home / f"profile-{number}", url) for number in range(BROWSERS)]
            server.terminate()
    record("dashboard", trials=trials, started=started, browsers=browsers)


def visit(profile: Path, url: str) -> list[float]:
    """Seconds of each visit with a new browser."""
    with chromium(profile) as page:
        page.call("Page.addScriptToEvaluateOnNewDocument", source=WATCH)
        # Nobody else has a debugger that listens, which doubles what plotly's start takes.
        for domain in ("Runtime", "Log", "Network"):
            page.call(f"{domain}.disable")
        time.sleep(2)  # the browser is still busy with its own start
        return [open_page(page, url) for _ in range(VISITS)]


def open_page(page: Page, url: str) -> float:
    """Seconds from asking for the page until the browser has painted all of the large sweep."""
    page.call("Page.navigate", url="about:blank")
    page.call("Page.navigate", url=url)
    start = time.perf_counter()
    while (milliseconds := page.value("window.paintedAt")) is None:
        time.sleep(0.1)
        assert time.perf_counter() - start < 300, page.value("document.body.innerText")
    return milliseconds / 1000


if __name__ == "__main__":
    main()
