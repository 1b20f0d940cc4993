import pytest
from report_records import a_run, the_results

from pipeline.commands import main
from pipeline.records.folder import read_results
from pipeline.records.tables import write_table


@pytest.fixture
def write_run(tmp_path):
    """Writes the folder of a run, as the stages do."""

    def write(name):
        results, folder = the_results(run=a_run(name=name)), tmp_path / name
        folder.mkdir()
        (folder / "run.json").write_text(results.run.model_dump_json())
        for table, rows in vars(results).items():
            if isinstance(rows, list):
                write_table(folder / f"{table}.parquet", rows, type(rows[0]))
        for method, rows in results.coefficients.items():
            write_table(folder / "coefficients" / f"{method}.parquet", rows, type(rows[0]))
        return folder

    return write


def test_what_a_run_left_is_read_back(write_run):
    assert read_results(write_run("one")) == the_results(run=a_run(name="one"))


def test_a_run_that_has_only_begun_has_results_too(write_run):
    folder = write_run("one")
    for path in folder.rglob("*.parquet"):
        path.unlink()
    results = read_results(folder)
    assert (results.soups, results.coefficients) == ([], {})


def test_one_run_or_several_on_a_page(write_run, tmp_path):
    one, two = write_run("one"), write_run("two")
    assert main(["report", str(one), "--out", str(tmp_path / "new" / "one.html")]) == 0
    assert "<h1>one</h1>" in (tmp_path / "new" / "one.html").read_text()
    assert main(["report", str(one), str(two), "--out", str(tmp_path / "both.html")]) == 0
    assert "<h1>Comparison of runs</h1>" in (tmp_path / "both.html").read_text()


def test_mistakes_are_one_line(write_run, tmp_path, capsys):
    assert main(["report", str(tmp_path), "--out", str(tmp_path / "x.html")]) == 2
    assert main(["report", str(write_run("one")), "--out", "/proc/no/x.html"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert errors[0].startswith(f"error: {tmp_path}: holds no finished run (run.json cannot be read)")
    assert errors[1].startswith("error: --out: /proc/no/x.html cannot be written")
    assert len(errors) == 2
