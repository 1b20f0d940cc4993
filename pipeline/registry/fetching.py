"""The records of a run that lies elsewhere, fetched from its registry."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import RegistryError
from pipeline.records.folder import RunFolder
from pipeline.registry.client import MlflowException, redact
from pipeline.registry.soups import current_soups
from pipeline.registry.sweeps import Sweep


def fetch_records(sweep: Sweep, root: Path) -> None:
    """Lay the records of the sweep, but for predictions, into ``root`` as they lie in the folder of its run.

    They are in the registry once the report was written; raises RegistryError where they are not.
    """
    client, folder = sweep.client(), RunFolder(root)
    try:
        names = [file.path for file in client.list_artifacts(sweep.run_id)]
        if folder.run.name not in names:
            raise RegistryError(
                f"the registry has no records of run '{sweep.name}' yet: they come with its report; "
                f"`python -m pipeline dashboard {sweep.name}` shows what there is"
            )
        for name in names:
            if name in (folder.run.name, folder.settings.name) or name.endswith(folder.soups.suffix):
                client.download_artifacts(sweep.run_id, name, str(root))
        for method, soup in current_soups(sweep).items():
            for path in (folder.coefficients(method), folder.history(method)):
                name = path.relative_to(root).as_posix()
                if name in [file.path for file in client.list_artifacts(soup.run_id, path.parent.name)]:
                    path.parent.mkdir(exist_ok=True)
                    client.download_artifacts(soup.run_id, name, str(path.parent))  # without the folders that it is in
    except (MlflowException, OSError) as error:
        reason = redact(sweep.tracking_uri, str(error))
        raise RegistryError(f"the records of run '{sweep.name}' cannot be read ({reason})") from error
