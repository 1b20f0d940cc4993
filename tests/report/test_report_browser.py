"""The report in a real browser. The pictures it takes lie in pytest's temporary folder, to be looked at."""

import pytest
from report_browser import CHROMIUM, chromium
from report_records import the_results

from pipeline.report import write_report

pytestmark = [pytest.mark.system, pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")]


def test_the_report_in_chromium(tmp_path):
    report, *_ = write_report(tmp_path, the_results())
    with chromium(tmp_path / "profile") as page:
        for width in (390, 820, 1400):
            for dark in (False, True):
                page.open(report, width, dark)
                page.screenshot(tmp_path / f"{width}-{'dark' if dark else 'light'}.png")
                assert page.complaints() == []
                assert page.value("document.querySelectorAll('.chart .main-svg .point').length") > 40
                assert page.value("document.documentElement.scrollWidth") <= width, "the page scrolls sideways"
                ink = page.value("getComputedStyle(document.querySelector('.chart .xtick text')).fill")
                assert ink == ("rgb(228, 232, 237)" if dark else "rgb(28, 33, 40)")
        page.pdf(tmp_path / "report.pdf")
        assert page.complaints() == []


def test_the_browser_notices_what_it_is_asked_to_notice(tmp_path):
    bad = tmp_path / "bad.html"
    bad.write_text("<script>console.error('no'); undefined_name()</script><img src='http://127.0.0.1:9/x.png'>")
    with chromium(tmp_path / "profile") as page:
        page.open(bad, 820)
        found = " ".join(page.complaints())
    assert "no" in found
    assert "Uncaught" in found
    assert "http://127.0.0.1:9/x.png" in found
