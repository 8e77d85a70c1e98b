"""What every node of a study needs: base, tokenizer, probe, rows and plan, all checked before anything is trained."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from limberlm.errors import UserError
from limberlm.files import known_digest
from limberlm.interventions.kinds import KINDS, Chosen, digests
from limberlm.interventions.seats.activations import chosen_sites
from limberlm.observe import ProbeSet, load_model, load_tokenizer
from limberlm.observe.model.sites import locate
from limberlm.outcomes.lm_eval import check_task
from limberlm.stages.controls.joint import joint_data
from limberlm.stages.data import Row, StageData, load_stage_data, refuse_shared_rows, shared_rows
from limberlm.stages.data.content import digest
from limberlm.stages.grpo import rewarded
from limberlm.stages.kind import TrainerKind
from limberlm.stages.reward import check_reward, reward_digest
from limberlm.stages.settings.arguments import trainer_config
from limberlm.stages.trainers import TRAINERS
from limberlm.study.plan.cost import NOTHING, Cost
from limberlm.study.plan.plan import Node, Plan
from limberlm.study.plan.steps import Step, courses, distinct
from limberlm.study.plan.tree import plan_study, stage_seed
from limberlm.study.settings.config import StudySettings
from limberlm.study.settings.resolve import BUNDLED
from limberlm.study.settings.stage import Names, StageSettings
from limberlm.testbed import BUNDLED_BASE
from limberlm.testbed.probe import probe_source


@dataclass(frozen=True)
class Workplace:
    """A study resolved (`resolve`), and what it reads. Each is read when it is first asked for, and once."""

    settings: StudySettings

    @cached_property
    def base(self) -> Path | str:
        """The base as something to load: a folder or a hub id."""
        if self.settings.base == BUNDLED:
            return BUNDLED_BASE
        return Path(self.settings.base) if Path(self.settings.base).exists() else self.settings.base

    @cached_property
    def base_digest(self) -> str:
        """The digest of the base as it was when the study was planned."""
        return _base_digest(self.base)

    def refuse_other_base(self) -> None:
        """Refuse a base that is not what it was: what is made from it would stand under a name that says otherwise.

        Raises:
            UserError: it changed, or is gone.

        """
        with suppress(OSError):
            if _base_digest(self.base) == self.base_digest:
                return
        raise UserError(f"base {self.settings.base}: changed while the study ran; put it back, or use another --out")

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The base's tokenizer, which all checkpoints share."""
        return load_tokenizer(self.base)

    @property
    def chat(self) -> bool:
        """Whether questions are put as chat messages."""
        return bool(self.tokenizer.chat_template)

    @cached_property
    def probe(self) -> ProbeSet:
        """The probe set that every checkpoint reads."""
        chosen = self.settings.measure
        return ProbeSet.build(
            probe_source(chosen.probe, self.chat, Path()),
            self.tokenizer,
            max_length=chosen.max_length,
            max_tokens=chosen.max_tokens,
            name=chosen.probe if chosen.probe == "testbed" else None,
        )

    @cached_property
    def _rows(self) -> dict[tuple[str, ...], StageData]:
        return {}

    def rows(self, stage: StageSettings, seed: int) -> StageData:
        """The rows of a stage under its seed."""
        asked = (stage.source, stage.trainer, stage.split, stage.subset, stage.rows, seed, stage.reward)
        key = tuple(map(str, asked))
        if key not in self._rows:
            self._rows[key] = load_stage_data(
                stage.source,
                stage.trainer,
                seed=seed,
                rows=stage.rows,
                chat=self.chat,
                split=stage.split,
                subset=stage.subset,
                reward=stage.reward,
            )
        return self._rows[key]

    def _joint_rows(self, names: Names, study_seed: int) -> StageData:
        """The rows that the stages see in a chain, each under its own seed, without their order."""
        stages = {name: self.settings.stages[name] for name in names}
        parts = [self.rows(stage, stage_seed(study_seed, name, 0)) for name, stage in stages.items()]
        seen = [self._cost(name, stages[name], part).rows for name, part in zip(names, parts, strict=True)]
        return joint_data(parts, seed=study_seed, rows=seen)

    def rows_of(self, node: Node) -> StageData:
        """The rows that a node trains on.

        Raises:
            UserError: they, or their judge, are not what they were when the study was planned.

        """
        stage = node.stage_settings
        data = self._joint_rows(node.joined, node.seed) if node.joined else self.rows(stage, node.stage_seed)
        if self._judged(data, stage) != node.data_digest:
            raise UserError(f"data {stage.source}: changed while the study ran; run it again")
        return data

    def files_of(self, chosen: Chosen) -> dict[str, str]:
        """The digests of what interventions read: the files that they name, the probe where they measure."""
        measures = any(KINDS[key].reads_probe for key in chosen)
        return digests(chosen) | ({"probe": self.probe.digest} if measures else {})

    def kind(self, stage: StageSettings) -> TrainerKind:
        """The trainer of a stage, with the stage's own reward."""
        return rewarded(TRAINERS[stage.trainer], stage.reward, Path(self.settings.modules or ""))

    def cost(self, node: Node) -> Cost:
        """What a node trains on."""
        if node.make != "train":
            return NOTHING
        return self._cost(node.stage.partition(".")[0], node.stage_settings, self.rows_of(node))

    def _cost(self, name: str, stage: StageSettings, data: StageData) -> Cost:
        return Cost.of(stage, data, self.tokenizer, f"stages.{name}.args")

    def plan(self) -> Plan:
        """Check and read everything that the study needs, and plan it.

        Raises:
            UserError: a base or probe that cannot be read, or a stage whose data or arguments are wrong.

        """
        settings = self.settings
        if "random_adapter" in settings.controls and settings.hand_over == "continue":
            raise UserError(
                "controls: random_adapter and hand_over: continue, where a stage has no adapter of its own to imitate; "
                "use merge, or leave the control out"
            )
        self._refuse_unreadable()
        chains = courses(settings, lambda step: self._cost(step.name, step.stage, self.rows(step.stage, 0)))
        for step in distinct(step for course in chains for step in course.steps if not step.random):
            where = f"stages.{step.name}.args"
            trainer_config(self.kind(step.stage), step.stage.args, where=where, seed=0, scratch=Path("unused"))
            if step.stage.reward is not None:
                columns = self.rows(step.stage, 0).train[0]
                check_reward(step.stage.reward, columns, folder=Path(self.settings.modules or ""))
        for name in settings.stages:
            self.held_out(name)
        return plan_study(settings, self.base_digest, chains, self._data_digest, self.files_of)

    def _refuse_unreadable(self) -> None:
        """Whatever cannot be read, or is not there, is told before anything is trained."""
        model = locate(load_model(self.base))
        for arm, changes in self.settings.interventions.items():
            for key, added in (pair for change in changes for pair in change.interventions.items()):
                if hasattr(added, "sites"):
                    chosen_sites(added.sites, model, f"interventions.{arm}: {key}")
        _ = self.probe
        for task in self.settings.outcomes.lm_eval:
            check_task(task.task, task.include_path)

    def held_out(self, name: str) -> list[Row]:
        """The rows on which a stage's held-out loss is read, the same for every node.

        Questions that a stage with other data trains on are refused, or left out if the study says so; the testbed's
        splits share nothing.

        Raises:
            UserError: a question is shared, and the study does not say to leave it out.

        """
        judged = self.settings.stages[name]
        # seed 0: every node must be scored on the same rows, whatever seed its own stage trained with
        rows = self.rows(judged, 0).held_out
        for other, stage in self.settings.stages.items():
            if "testbed:" in (stage.source[:8], judged.source[:8]) or stage.source == judged.source:
                continue
            train = self.rows(stage, 0).train
            if self.settings.outcomes.shared_questions == "leave_out":
                shared = {position for _, position in shared_rows(train, rows)}
                rows = [row for position, row in enumerate(rows) if position not in shared]
            else:
                names = (f"stages.{other} ({stage.source})", f"stages.{name} ({judged.source})")
                refuse_shared_rows(names[0], train, names[1], rows)
        return rows

    @cached_property
    def held_out_digests(self) -> dict[str, str]:
        """The digests of the rows on which each stage's held-out loss is read."""
        return {name: digest(self.held_out(name)) for name in self.settings.stages}

    def _data_digest(self, step: Step, study_seed: int, seed: int) -> str:
        data = self._joint_rows(step.joined, study_seed) if step.joined else self.rows(step.stage, seed)
        return self._judged(data, step.stage)

    def _judged(self, data: StageData, stage: StageSettings) -> str:
        """The digest of rows and of the reward function that judges what is made of them."""
        if stage.reward is None:
            return data.digest
        judge = reward_digest(stage.reward, folder=Path(self.settings.modules or ""))
        return data.digest if judge is None else f"{data.digest}-{judge}"


def _base_digest(base: Path | str) -> str:
    """The digest of a local model's files, or a hub id as it is."""
    if not isinstance(base, Path):
        return base
    digest = blake2b(digest_size=16)
    for path in sorted(base.iterdir()):
        if path.suffix in (".safetensors", ".json", ".jinja", ".model"):
            digest.update(f"{path.name}:{known_digest(path)}\n".encode())
    return digest.hexdigest()
