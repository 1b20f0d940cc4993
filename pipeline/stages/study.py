"""The stages of the studies: each asks for soups, of which only the missing ones are built, and writes its tables."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Mapping, Sequence

from pipeline.cluster import current_cluster
from pipeline.data import KINDS
from pipeline.errors import SoupError
from pipeline.records import CostRecord, IngredientRecord, PredictionRecord, ShownExample, SoupRecord
from pipeline.records.folder import read_coefficients, read_run
from pipeline.records.tables import read_table, write_table
from pipeline.registry import log_costs
from pipeline.soup_requests import Request, SimilarityRequest, SoupRequest
from pipeline.soup_task import measure_similarities
from pipeline.stages.building import obtain_soups, soup_context, soup_request
from pipeline.stages.context import Run
from pipeline.studies import STUDIES, Answer, StudyInputs


def study_stage(run: Run, name: str) -> None:
    """Answer the requests of the study ``name``, write its tables, show its curve in MLflow."""
    study, inputs = STUDIES[name], study_inputs(run, name, run.ingredients())
    answers = _answers(run, inputs, study.requests(inputs))
    tables = study.rows(inputs, answers)
    if undeclared := sorted(tables.keys() - study.tables.keys()):
        raise SoupError(
            f"study '{name}': makes the table '{undeclared[0]}', and declares: {', '.join(study.tables)}; name it there"
        )
    for table, rows in tables.items():
        write_table(run.folder.table(table), rows, study.tables[table])
        if table == study.curve:
            points = [row for row in rows if isinstance(row, CostRecord)]
            log_costs(run.sweep, inputs.run.theta0_figures, points)


def study_inputs(run: Run, name: str, rows: Sequence[IngredientRecord]) -> StudyInputs:
    """The records of the run as they are now, ``rows`` for its trials, with the settings of the study ``name``."""
    return StudyInputs(
        settings=run.config.study_settings(name),
        run=read_run(run.folder),
        ingredients=rows,
        soups=read_table(run.folder.soups, SoupRecord) if run.folder.soups.exists() else [],
        request=functools.partial(soup_request, run.config, run.precision, rows),
        read_coefficients=functools.partial(read_coefficients, run.folder),
        read_predictions=lambda path: read_table(run.path(path), PredictionRecord),
        show=functools.partial(_show, run),
    )


def _show(run: Run, indices: Sequence[int]) -> Sequence[ShownExample]:
    show = KINDS[run.splits.kind].show
    return () if show is None else show(run.config.data, run.splits.test.inputs[list(indices)])


def _answers(run: Run, inputs: StudyInputs, requests: Mapping[str, Request]) -> dict[str, Answer]:
    """What each request came to; soups are built as many side by side as there are GPUs."""
    context = soup_context(run, inputs.ingredients)
    wanted = {name: request for name, request in requests.items() if isinstance(request, SoupRequest)}
    tasks = max(current_cluster().gpus, 1)
    answers: dict[str, Answer] = {
        **obtain_soups(run, context, wanted, tasks=tasks, under_any_name=True, stage="study"),
        **{
            name: measure_similarities(context, request, run.cluster.cpus)
            for name, request in requests.items()
            if isinstance(request, SimilarityRequest)
        },
    }
    shutil.rmtree(run.unfinished_soups, ignore_errors=True)  # of settings that are no more
    return answers
