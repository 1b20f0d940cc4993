"""The README of the project: short, with links that lead somewhere and an example that runs as it stands."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = ["README.md", "configs/README.md", "pipeline/README.md", "deploy/README.md", "tests/benchmarks/README.md"]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readme_is_short_and_begins_with_what_to_type():
    assert len(README.splitlines()) < 200
    first = re.search(r"```sh\n(\S+ \S+)", README)
    assert first[1] == "make demo"
    assert README[: first.start()].count("\n") < 30
    assert "|---" not in README[: first.start()]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_headings_that_are_there(page):
    path = ROOT / page
    for link in re.findall(r"\]\(([^)]+)\)", path.read_text(encoding="utf-8")):
        name, _, heading = link.partition("#")
        if name.startswith("http"):
            continue
        to = (path.parent / name).resolve() if name else path
        assert to.exists(), link
        if heading:
            headings = re.findall(r"^#+ (.*)", to.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in {re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in headings}, link


def test_the_example_of_the_library_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(example, "README.md", "exec"), names)
    assert float(re.search(r"0\.\d+", capsys.readouterr().out)[0]) > 0.9  # a coin has 0.5
    soup = names["soup"]
    assert soup.coefficients.shape == (len(names["paths"]), len(soup.layers))
    assert soup.coefficients.sum(0).tolist() == pytest.approx([1] * len(soup.layers))
