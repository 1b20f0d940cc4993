"""A study: what is each ingredient worth to a soup?"""

from pipeline.config import MethodName, Section
from pipeline.records import Record
from pipeline.studies import Study


class LeaveOneOutRecord(Record):
    """A row of ``leave_one_out.parquet``: the soup without one trial."""

    method: str
    left_out: int
    test_accuracy: float


class LeaveOneOutSettings(Section):
    """What each ingredient is worth to a soup."""

    method: MethodName = "uniform"
    """The method of the soups."""


def requests(inputs):
    """The soup without each of the trials."""
    whole = inputs.whole_sweep(inputs.settings.method)
    return {f"leave-one-out/{index}": whole.of(set(whole.trial_indices) - {index}) for index in whole.trial_indices}


def rows(inputs, soups):
    method = inputs.settings.method
    return {
        "leave_one_out": [
            LeaveOneOutRecord(
                method=method, left_out=int(name.rpartition("/")[2]), test_accuracy=soup.record.test_accuracy
            )
            for name, soup in soups.items()
        ]
    }


LEAVE_ONE_OUT = Study(
    tables={"leave_one_out": LeaveOneOutRecord}, requests=requests, rows=rows, settings=LeaveOneOutSettings
)
