"""What lies where in the folder of a run: the one place that names its files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import DataError
from pipeline.files import write_text
from pipeline.records.tables import read_table
from pipeline.records.types import (
    RECORDS_VERSION,
    CoefficientRecord,
    IngredientRecord,
    LossRecord,
    Record,
    RunRecord,
    RunResults,
    SoupRecord,
)


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run, ``root``."""

    root: Path

    @property
    def settings(self) -> Path:
        """The resolved settings."""
        return self.root / "config.yaml"

    @property
    def state(self) -> Path:
        """What the next call of the same command must know (`pipeline.stages.state`)."""
        return self.root / "state.json"

    @property
    def lock(self) -> Path:
        """Held by the process that works on the run (`pipeline.stages.state.locked_output`)."""
        return self.root / ".lock"

    @property
    def run(self) -> Path:
        """What the run was made with: a `RunRecord`, there as soon as the starting point is."""
        return self.root / "run.json"

    @property
    def theta0(self) -> Path:
        """The starting point."""
        return self.root / "theta0.safetensors"

    @property
    def ingredients(self) -> Path:
        """A row per trial."""
        return self.table("ingredients")

    @property
    def soups(self) -> Path:
        """A row per method."""
        return self.table("soups")

    @property
    def report(self) -> Path:
        """The page."""
        return self.root / "report.html"

    @property
    def figures(self) -> Path:
        """The folder of the figures as files."""
        return self.root / "figures"

    @property
    def trials(self) -> Path:
        """The folder of what unfinished trials go on from."""
        return self.root / "trials"

    @property
    def reports(self) -> Path:
        """What trials had after which epoch, where a scheduler compares them (`pipeline.search.early`)."""
        return self.root / "reports.json"

    @property
    def unfinished_soups(self) -> Path:
        """The folder of what unfinished soups go on from."""
        return self.root / "unfinished-soups"

    def table(self, name: str) -> Path:
        """A table, of a study or one of the two above."""
        return self.root / f"{name}.parquet"

    def coefficients(self, method: str) -> Path:
        """The mixing coefficients of a method's soup."""
        return self.root / "coefficients" / f"{method}.parquet"

    def history(self, method: str) -> Path:
        """The loss of every step of a method that learns in blocks."""
        return self.root / "history" / f"{method}.parquet"

    def soup(self, method: str) -> Path:
        """The weights of a method's soup."""
        return self.root / "soups" / f"{method}.safetensors"

    def tables_of(self, method: str) -> list[Path]:
        """The tables of a method's soup that there are."""
        paths = (self.root / predictions_path(method), self.coefficients(method), self.history(method))
        return [path for path in paths if path.exists()]


def predictions_path(name: str) -> str:
    """What a soup predicted, a path in the run's folder; soups of studies have names with slashes."""
    return f"predictions/{name}.parquet"


def read_run(folder: RunFolder) -> RunRecord:
    """``run.json``. Raises DataError where there is none that this version reads.

    Version 1, which noted none, is as version 2 without ``labels``.
    """
    try:
        values = json.loads(folder.run.read_text(encoding="utf-8"))
        version = values.setdefault("records_version", 1)
        if isinstance(version, int) and version > RECORDS_VERSION:
            raise DataError(
                f"{folder.run}: holds records of version {version}, and this program knows {RECORDS_VERSION}; "
                "use the newer program that wrote them"
            )
        return RunRecord.model_validate(values)
    except (OSError, ValueError, AttributeError) as error:  # ValidationError is a ValueError
        raise DataError(
            f"{folder.root}: holds no finished run ({folder.run.name} cannot be read); give the folder of one"
        ) from error


def write_run(folder: RunFolder, record: RunRecord) -> None:
    """Write ``run.json``."""
    write_text(folder.run, record.model_dump_json(indent=1))


def update_run(folder: RunFolder, **changes: Any) -> RunRecord:
    """Change fields of ``run.json``; returns what it then says. Raises DataError as `read_run` does."""
    record = read_run(folder).model_copy(update={**changes, "records_version": RECORDS_VERSION})
    write_run(folder, record)
    return record


def read_coefficients(folder: RunFolder, method: str) -> list[CoefficientRecord] | None:
    """The mixing coefficients of a method's soup; None of an ensemble, which has none as a file."""
    path = folder.coefficients(method)
    return read_table(path, CoefficientRecord) if path.exists() else None


def read_results(root: Path, study_tables: Mapping[str, type[Record]]) -> RunResults:
    """The records in the folder of a run, of the tables of studies those that are named.

    Raises DataError for a folder that holds none, or a damaged table.
    """
    folder = RunFolder(root)
    run = read_run(folder)
    ingredients = read_table(folder.ingredients, IngredientRecord) if folder.ingredients.exists() else []
    soups = read_table(folder.soups, SoupRecord) if folder.soups.exists() else []
    # Of the methods of now alone: tables of methods that are built no more are kept.
    coefficients = {soup.method: read_coefficients(folder, soup.method) for soup in soups}
    return RunResults(
        run=run,
        ingredients=ingredients,
        soups=soups,
        coefficients={method: rows for method, rows in coefficients.items() if rows is not None},
        studies={
            name: read_table(path, kind) for name, kind in study_tables.items() if (path := folder.table(name)).exists()
        },
        losses={
            soup.method: read_table(path, LossRecord)
            for soup in soups
            if (path := folder.history(soup.method)).exists()
        },
    )
