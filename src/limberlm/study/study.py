"""`Study`: the Python face of a study file and its run directory."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pandas as pd

from limberlm.study.plan.plan import Plan
from limberlm.study.results.results import Results, TableName
from limberlm.study.run.hands import Engine
from limberlm.study.run.runner import Watch, prepare, run_study
from limberlm.study.settings.config import StudySettings, load_settings
from limberlm.study.store.remote import Remote


class Study:
    """A study file and the run directory it fills.

    `study = Study.load("study.yaml"); study.run(); study.table("geometry")`
    """

    def __init__(self, settings: StudySettings, out: Path, folder: Path, remote: Remote | None = None) -> None:
        self.settings, self.out, self.folder, self.remote = settings, out, folder, remote

    @classmethod
    def load(cls, path: str | Path, out: str | Path | None = None, store: str | None = None) -> Study:
        """Read a study file. Its relative paths start at its own folder; results go to `out`, or `runs/NAME`.

        With `store`, an address such as `s3://bucket/run`, they go there too, and what is there is brought to `out`.

        Raises:
            UserError: the file cannot be read, a setting in it is wrong, or `store` is an address that nothing reads.

        """
        settings, remote = load_settings(Path(path)), Remote(store) if store else None
        return cls(settings, Path(out) if out else Path("runs") / settings.name, Path(path).parent, remote)

    def plan(self) -> Plan:
        """The nodes and chains the study consists of, after checking everything it needs."""
        return prepare(self.settings, self.folder)[1]

    def run(
        self,
        engine: Literal["local", "ray"] | Engine = "local",
        watch: Watch = lambda event: None,
        *,
        jobs: int | None = None,
        address: str | None = None,
        retry: bool = False,
    ) -> Results:
        """Run what is not complete yet, and return the results; as `Engine` and `run_study`."""
        where = engine if isinstance(engine, Engine) else Engine(engine, jobs, address)
        run_study(self.settings, self.out, self.folder, watch, engine=where, retry=retry, remote=self.remote)
        return Results(self.out)

    def table(self, name: TableName) -> pd.DataFrame:
        """A table of the results so far: see `Results.table`."""
        return Results(self.out).table(name)
