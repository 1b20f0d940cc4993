import pytest
from report_records import a_run, the_results

from pipeline.commands import main
from pipeline.records import CoefficientRecord, IngredientRecord, SoupRecord
from pipeline.records.folder import RunFolder, read_results, write_run
from pipeline.records.tables import write_table
from pipeline.studies import study_tables


@pytest.fixture
def written_run(tmp_path):
    """Writes the folder of a run, as the stages do."""

    def write(name):
        results, folder = the_results(run=a_run(name=name)), RunFolder(tmp_path / name)
        write_run(folder, results.run)
        write_table(folder.ingredients, results.ingredients, IngredientRecord)
        write_table(folder.soups, results.soups, SoupRecord)
        for method, rows in results.coefficients.items():
            write_table(folder.coefficients(method), rows, CoefficientRecord)
        for table, rows in results.studies.items():
            write_table(folder.table(table), rows, study_tables()[table])
        return folder.root

    return write


def test_what_a_run_left_is_read_back(written_run):
    assert read_results(written_run("one"), study_tables()) == the_results(run=a_run(name="one"))


def test_a_run_that_has_only_begun_has_results_too(written_run):
    folder = written_run("one")
    for path in folder.rglob("*.parquet"):
        path.unlink()
    results = read_results(folder, study_tables())
    assert (results.soups, results.coefficients, results.studies) == ([], {}, {})


def test_one_run_or_several_on_a_page(written_run, tmp_path):
    one, two = written_run("one"), written_run("two")
    assert main(["report", str(one), "--out", str(tmp_path / "new" / "one.html")]) == 0
    assert "<h1>one</h1>" in (tmp_path / "new" / "one.html").read_text()
    assert main(["report", str(one), str(two), "--out", str(tmp_path / "both.html")]) == 0
    assert "<h1>Comparison of runs</h1>" in (tmp_path / "both.html").read_text()


def test_mistakes_are_one_line(written_run, tmp_path, capsys):
    assert main(["report", str(tmp_path), "--out", str(tmp_path / "x.html")]) == 2
    assert main(["report", str(written_run("one")), "--out", "/proc/no/x.html"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert errors[0].startswith(f"error: {tmp_path}: holds no finished run (run.json cannot be read)")
    assert errors[1].startswith("error: --out: /proc/no/x.html cannot be written")
    assert len(errors) == 2


def test_a_run_that_is_neither_folder_nor_name_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["report", "mine", "--out", str(tmp_path / "x.html")]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("error: 'mine' is no folder, and no run of a registry: --tracking-uri: is not given")
