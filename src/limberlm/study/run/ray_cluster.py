"""A Ray cluster: joined without noise, and what fits on it."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any

from limberlm.errors import UserError
from limberlm.study.settings.stage import ResourceSettings

ANSWER = 15  # seconds that a cluster has to answer
AGAIN = 10.0  # seconds after which the cluster is looked at again: it may have grown
# A cluster that is started here tells nobody of it, and what Ray tells of dead workers would stand among our results:
# it prints that to standard output, whatever `log_to_driver` says.
SILENT = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS_SKIP_REGEX": "."}


class Cluster:
    """A cluster at an address: HOST:PORT, `auto`, or None for `RAY_ADDRESS` or else one of this machine alone."""

    def __init__(self, address: str | None) -> None:
        self.address = address or os.environ.get("RAY_ADDRESS") or "local"
        self._looked, self._machines = float("-inf"), list[dict[str, float]]()

    def connect(self) -> None:
        """Join the cluster, or start one.

        Raises:
            UserError: it does not answer, or does not start.

        """
        if self.address.startswith("ray://"):
            raise UserError(f"--address {self.address}: run on a machine of the cluster, and give HOST:PORT or auto")
        for name, value in SILENT.items():
            os.environ.setdefault(name, value)
        import ray

        self.ray: Any = ray
        if self.address not in ("local", "auto"):
            self._refuse_silent()
        logging.getLogger("ray").setLevel(logging.ERROR)
        in_main = threading.current_thread() is threading.main_thread()
        before = signal.getsignal(signal.SIGTERM) if in_main else None
        try:
            ray.init(self.address, include_dashboard=False, log_to_driver=False, configure_logging=False)
        except Exception as error:  # Ray raises nothing narrower where a cluster does not start in time
            ray.shutdown()  # what it had started by then
            raise UserError(f"{self._told()}: {next(iter(str(error).splitlines()), error)}") from None
        finally:
            if in_main:
                signal.signal(signal.SIGTERM, before)  # Ray puts its own in its place

    def _told(self) -> str:
        if self.address == "local":
            return "--engine ray: no cluster could be started on this machine; free it, or give --address"
        return f"--address {self.address}"

    def leave(self) -> None:
        """Leave the cluster; one that was started here ends."""
        self.ray.shutdown()

    def machines(self) -> list[dict[str, float]]:
        """The resources of every machine that is up."""
        if time.monotonic() - self._looked > AGAIN:
            self._machines = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
            self._looked = time.monotonic()
        return self._machines

    def options(self, asked: ResourceSettings) -> dict[str, Any]:
        """What Ray is told of a task, of one GPU at most; where nothing is said of GPUs it is one, if there are any."""
        some = any(machine.get("GPU") for machine in self.machines())
        gpus = float(some) if asked.gpus is None else min(asked.gpus, 1.0)
        return {"num_cpus": asked.cpus, "num_gpus": gpus, "resources": dict(asked.custom)}

    def slots(self, wanted: Iterable[ResourceSettings]) -> int:
        """How many tasks fit at once, if all were of the smallest kind."""
        return max(sum(self._fits(self._needs(asked))) for asked in wanted)

    def refuse_what_fits_nowhere(self, wanted: Mapping[str, ResourceSettings]) -> None:
        """Refuse a stage that would wait for ever.

        Raises:
            UserError: no machine has what it asks for.

        """
        for stage, asked in wanted.items():
            needs = self._needs(asked, asked.processes)
            if not any(self._fits(needs)):
                text = ", ".join(f"{name}: {value:g}" for name, value in needs.items())
                raise UserError(
                    f"resources of {stage} ({text}): no machine of the Ray cluster has as much; ask for less"
                )

    def _needs(self, asked: ResourceSettings, processes: int = 1) -> dict[str, float]:
        """What so many processes of a stage take together."""
        options = self.options(asked)
        return {
            "CPU": options["num_cpus"] * processes,
            "GPU": options["num_gpus"] * processes,
            **options["resources"],
        }

    def _fits(self, needs: Mapping[str, float]) -> list[int]:
        """How many times what is needed is there on each machine."""
        some = {name: need for name, need in needs.items() if need > 0}
        return [
            min(int(machine.get(name, 0) / need + 1e-9) for name, need in some.items()) for machine in self.machines()
        ]

    def _refuse_silent(self) -> None:
        """Ray itself would try for minutes."""
        line = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", self.address]
        try:
            answered = subprocess.run(line, timeout=ANSWER, capture_output=True).returncode == 0
        except subprocess.TimeoutExpired:
            answered = False
        if not answered:
            raise UserError(f"--address {self.address}: no Ray cluster answers there; start one with ray start --head")
