"""The report in a real browser. The pictures it takes lie in pytest's temporary folder, to be looked at."""

import pytest
from PIL import Image
from report_browser import CHROMIUM, Page, chromium, needs_axe
from report_records import a_sweep, the_costs, the_page_in_full, the_results

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


def test_on_paper_no_chart_lies_over_what_follows(tmp_path):
    report, *_ = write_report(tmp_path, the_page_in_full())
    below = (
        "[...document.querySelectorAll('figure')].filter(figure => "
        "figure.querySelector('.main-svg').getBoundingClientRect().bottom > "
        "figure.querySelector('figcaption').getBoundingClientRect().top + 1).map(figure => figure.innerText)"
    )
    with chromium(tmp_path / "profile") as page:
        page.open(report, 1400)
        page.value("dispatchEvent(new Event('beforeprint'))")
        page.call("Emulation.setEmulatedMedia", media="print")
        assert page.value("document.querySelectorAll('figure').length") > 8
        assert page.value(below) == []


def test_on_a_phone_a_wide_table_says_that_there_is_more_and_legends_are_whole(tmp_path):
    """At its right edge a table's box is shaded until it has been scrolled to the end."""
    ordered = [*the_costs(a_sweep()), *the_costs(a_sweep(), order_seed=1)]
    report, *_ = write_report(tmp_path, the_results(cost_accuracy=ordered))
    box = "document.querySelector('#methods .scroll')"
    with chromium(tmp_path / "profile") as page:
        for dark in (False, True):
            page.open(report, 390, dark)
            shades = []
            for left in (0, 10_000):
                page.value(f"{box}.scrollLeft = {left}")
                page.screenshot(tmp_path / "box.png")
                x, y = page.value(f"(b => [b.right - 4, b.bottom - 20 + scrollY])({box}.getBoundingClientRect())")
                shades.append(sum(Image.open(tmp_path / "box.png").convert("RGB").getpixel((int(x), int(y)))))
            assert shades[0] < shades[1] - 10
            inside = "[...document.querySelectorAll('.legendtext')].every(t => t.getBoundingClientRect().right <= 390)"
            assert page.value(inside)
            above = (
                "[...document.querySelectorAll('.legend')].every(legend => legend.getBoundingClientRect().bottom <= "
                "legend.closest('.chart').querySelector('.nsewdrag').getBoundingClientRect().top + 2)"
            )
            assert page.value(above), "a legend lies over the lines"
            bars = "[...document.querySelectorAll('.legend .scrollbar')].map(bar => +bar.getAttribute('height'))"
            assert set(page.value(bars)) == {0}, "a legend has to be scrolled"


@needs_axe
def test_nothing_in_the_report_keeps_people_from_reading_it(tmp_path):
    """Folded parts are opened: what is not shown is not judged."""
    report, *_ = write_report(tmp_path, the_page_in_full())
    with chromium(tmp_path / "profile") as page:
        for width in (390, 1400):
            for dark in (False, True):
                page.open(report, width, dark)
                page.value("document.querySelectorAll('details').forEach(part => part.open = true)")
                assert page.violations() == []


def what_it_finds(ask, html, tmp_path):
    """What a page is said to have wrong, as one text."""
    bad = tmp_path / "bad.html"
    bad.write_text(html)
    with chromium(tmp_path / "profile") as page:
        page.open(bad, 820)
        return " ".join(ask(page))


@needs_axe
def test_axe_notices_what_it_is_asked_to_notice(tmp_path):
    html = "<p style='color: #ddd; background: #fff'>pale</p><img src='data:,'>"
    found = what_it_finds(Page.violations, html, tmp_path)
    assert "color-contrast" in found
    assert "image-alt" in found


def test_the_browser_notices_what_it_is_asked_to_notice(tmp_path):
    html = "<script>console.error('no'); undefined_name()</script><img src='http://127.0.0.1:9/x.png'>"
    found = what_it_finds(Page.complaints, html, tmp_path)
    assert "no" in found
    assert "Uncaught" in found
    assert "http://127.0.0.1:9/x.png" in found
