# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""A whole run."""

import logging
import os
from collections.abc import Iterable
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

from accelerate import Accelerator

from .. import hub
from ..artifact.layout import without_paths
from ..errors import about, counted
from ..models.families.base import Family
from .arguments import DistillationArguments
from .backtracking import DistributionBacktracking
from .batches import BatchSource
from .best import BestStudent
from .build import build
from .degradation import DegradationRecording
from .finish import save_artifact
from .flags import PATH
from .networks import Networks
from .objectives import OBJECTIVES, Objective, name_of
from .pairs import TeacherPairs
from .parallel import Replicated
from .path import DegradationPath
from .path_probe import PathProbe
from .plan import print_plan
from .prepare import prepare, repo_name
from .probes import make_probes
from .run_folder import Checkpoint, RunFolder
from .sources import Sources
from .stage import resume
from .switching import NodeWalk, count_stays, described
from .trainer import Trainer
from .validation import Validator
from .warmup import RegressionWarmup


logger = logging.getLogger(__name__)
OTHER_ADAPTERS = "--degradation_path (and --lora_rank, --lora_alpha, --lora_target_modules):"


def distill(
    args: DistillationArguments,
    families: Iterable[type[Family]] | None = None,
    objective: type[Objective] | None = None,
) -> Path:
    """Distill a teacher into a student of one or few steps: stage 1, stage 2, and the artifact in `output_dir`.

    Args:
        args (`DistillationArguments`).
        families (`list[type[Family]]`, *optional*): the families of teachers that are allowed; by default all.
        objective (`type[Objective]`, *optional*): what stage 2 minimises, instead of the class that the setting
            `objective` names.

    Returns:
        the output folder, for `DisBackPipeline.from_pretrained`.

    Raises:
        UsageError: a setting, a file or an environment that cannot work.
        RunError: the run cannot go on; what it has saved stays.
    """
    args = deepcopy(args)  # some settings are completed by what the teacher and accelerate say
    args.validate()  # they may have been changed since they were made
    objective = OBJECTIVES[args.objective.objective] if objective is None else objective
    if not (isinstance(objective, type) and issubclass(objective, Objective)):
        raise TypeError(f"objective must be a subclass of Objective, not {objective!r}.")
    with hub.use_token(args.run.hub_token):
        sources, accelerator, folder = prepare(args, families)
        if args.run.dry_run:
            print_plan(args, sources, accelerator, objective)
            return folder.folder
        repo_id = None
        if args.run.push_to_hub and accelerator.is_main_process:
            repo_id = hub.create_hub_repo(repo_name(args.run), args.run.hub_token)
        folder.open(args.settings())
        try:
            _start_trackers(args.settings(), accelerator)
            Distillation.of(args, sources, accelerator, folder, objective).run(repo_id)
        except BaseException:
            for tracker in accelerator.trackers:
                tracker.finish()
            raise
        finally:
            folder.close()
        accelerator.end_training()
        return folder.folder


def _start_trackers(settings, accelerator):
    if settings["report_to"]:
        settings = {key: str(value) if isinstance(value, list) else value for key, value in settings.items()}
        accelerator.init_trackers("disback", {key: value for key, value in settings.items() if value is not None})


@dataclass
class Distillation:
    """The parts of a run, put together."""

    args: DistillationArguments
    sources: Sources
    parallel: Replicated
    folder: RunFolder
    networks: Networks
    batches: BatchSource
    validator: Validator
    trainer: Trainer
    objective: type[Objective]
    _log_is_rewound: bool = False

    @classmethod
    def of(
        cls,
        args: DistillationArguments,
        sources: Sources,
        accelerator: Accelerator,
        folder: RunFolder,
        objective: type[Objective],
    ) -> "Distillation":
        """Load the weights and make everything that the stages need."""
        parallel = Replicated(accelerator)
        networks, batches = build(args, sources, parallel, folder.folder)
        validator = Validator(
            networks,
            batches,
            parallel,
            sources.shown,
            args.run,
            args.objective.guidance_scale,
            folder.folder / "samples",
        )
        probes = make_probes(args.run, sources, networks, batches, parallel, args.objective.guidance_scale)
        best = BestStudent(folder.folder, args.run.keep_best) if args.run.keep_best else None
        trainer = Trainer(accelerator, parallel, folder, args.run, validator, probes, best)
        return cls(args, sources, parallel, folder, networks, batches, validator, trainer, objective)

    def run(self, repo_id: str | None = None) -> None:
        """Both stages and what they leave; `repo_id` is where it is uploaded to."""
        checkpoint = self.folder.find(self.args.run.resume_from_checkpoint)
        if self.parallel.is_main:
            self.folder.clean()
        self.warm_up(checkpoint)
        path = self.stage_1(checkpoint)
        walk = self.walk(path)
        self.stage_2(path, walk, checkpoint)
        self._restore_best()
        samples = self.validator.card_samples()
        if self.parallel.is_main:
            given = self.args, self.sources, self.networks, samples
            chosen = repo_id, self.trainer.best
            save_artifact(self.folder.folder, *given, path, walk, name_of(self.objective), *chosen)
            where = str(self.folder.folder)
            load = f" Load it with DisBackPipeline.from_pretrained({where!r})." if self.networks.family.served else ""
            logger.info(f"The student is in {where}, its sample images are in {os.path.join(where, 'samples')}.{load}")
            if repo_id:
                run = self.args.run
                hub.push_folder(self.folder.folder, repo_id, run.hub_token, with_path=run.push_degradation_path)

    def _restore_best(self):
        best = self.trainer.best
        self.parallel.wait()
        if best and best.restore(self.networks.student):
            logger.info(f"The student of update {best.step} is kept, with {best.metric} {best.value:.4g}.")

    # -----------------------------------------------------------------------------------------------------------------
    # Pairs of the teacher, and stage 1

    def warm_up(self, checkpoint: Checkpoint | None) -> None:
        """Generate the teacher's pairs and train the student on them, where the settings say so."""
        updates, settings = self.args.objective.warmup_pairs, self.args.objective
        if updates or self.objective.draws_pairs(bool(self.batches.real)):
            folder = Path(settings.teacher_pairs_folder or self.folder.folder / "pairs")
            shared = self.networks, self.batches, self.parallel
            counts = settings.teacher_pairs, settings.teacher_pairs_steps
            pairs = TeacherPairs(folder, *shared, *counts, settings.guidance_scale)
            with about("--teacher_pairs_folder:") if settings.teacher_pairs_folder else nullcontext():
                pairs.generate()
            self.batches.draw_pairs = pairs.draw
        if not updates or (checkpoint and not checkpoint.is_of(RegressionWarmup.name)):
            return
        stage = RegressionWarmup(
            self.networks, self.batches, self.parallel, self.args.optimization, total_steps=updates
        )
        logger.info(f"Warm-up: {updates:,} updates on pairs of the teacher.")
        if checkpoint:
            resume(stage, checkpoint)
        self._run(stage, checkpoint)

    def stage_1(self, checkpoint: Checkpoint | None) -> DegradationPath | None:
        """The degradation path, recorded, resumed or reused, or None. Puts the fake score at its start."""
        init, roles = self.args.objective.fake_score_init, self.networks.roles
        path = self.sources.path
        if not path and self.args.needs_path:
            path = self._record(checkpoint)
        if init in ("node", "fit"):
            with about(OTHER_ADAPTERS) if self.sources.path else nullcontext():
                path.load_into(roles, len(path) - 1, role=self.networks.fake.role)
        elif init == "random":
            roles.randomize(self.networks.fake.role, seed=self.args.system.seed)
        if self.args.student.init_fake_from_student:
            self.sources.student.start_role(roles, self.networks.fake.role)
        return path

    def _record(self, checkpoint):
        where, roles = self.folder.folder / "degradation", self.networks.roles
        if checkpoint and checkpoint.is_of(RegressionWarmup.name):
            checkpoint = None
        if checkpoint:
            with about("--resume_from_checkpoint:"):
                path = DegradationPath.load(where, base=roles)
            if checkpoint.is_of_last_stage:
                return path
        else:
            path = self._new_path(where)
        nodes = self._nodes_to_record(path)
        logger.info(f"Stage 1: {self.args.path.degradation_steps:,} updates, {counted(nodes, 'node')}.")
        stage = DegradationRecording(
            self.networks, self.batches, self.parallel, self.args.optimization, self.args.path, path, nodes
        )
        stage.first_step = self.args.objective.warmup_pairs
        stage.carries_student = stage.first_step > 0
        if checkpoint:
            resume(stage, checkpoint)
        self._run(stage, checkpoint)
        self.parallel.wait()
        return path if self.parallel.is_main else DegradationPath.load(where, base=roles)

    def _new_path(self, where):
        settings, student = without_paths(self.args.recorded(PATH)), self.sources.student
        if student.fingerprint_key:
            settings[student.fingerprint_key] = student.fingerprint(self.networks.student)
        untrained = None
        if settings["student_unet"] or settings["lcm_lora"] or self.args.path.node_switching == "adaptive":
            untrained = PathProbe(self.networks, self.batches, self.parallel).untrained()
        return DegradationPath(where, self.networks.roles.fingerprint, settings, untrained=untrained)

    def _nodes_to_record(self, path):
        """A path that is not walked has one node, its end, where the fake score starts."""
        return self.args.path.degradation_nodes if self.args.path.walks(path) else 1

    # -----------------------------------------------------------------------------------------------------------------
    # Stage 2

    def walk(self, path: DegradationPath | None) -> NodeWalk:
        """The targets of stage 2."""
        settings = self.args.path
        if path is None or settings.no_backtracking:
            return NodeWalk.teacher_only()
        stays = count_stays(len(path))
        adaptive = settings.node_switching == "adaptive"
        walked, why = path.should_walk() if adaptive else (True, "")
        if walked and not stays:
            logger.info("The path is not walked, as it has one node, where the fake score starts.")
        elif adaptive:
            logger.info(f"The path is {'walked' if walked else 'not walked'}, as {why} (--node_switching).")
        if not settings.walks(path):
            return NodeWalk.teacher_only()
        return NodeWalk.back_from(len(path), self.args.steps_per_stay(stays))

    def stage_2(self, path: DegradationPath | None, walk: NodeWalk, checkpoint: Checkpoint | None) -> None:
        """Train the student."""
        settings = self.args.objective
        objective = self.objective(self.networks.student, self.networks.fake, settings)
        stage = DistributionBacktracking(
            self.networks,
            self.batches,
            self.parallel,
            self.args.optimization,
            objective,
            walk,
            path if not self.args.path.no_backtracking else None,
            settings.fake_score_updates_per_step,
            first_step=settings.warmup_pairs + (0 if path is None or self.sources.path else path.nodes[-1].step),
            fake_score_warmup=settings.fake_score_warmup_steps,
        )
        if checkpoint and checkpoint.is_of_last_stage:
            resume(stage, checkpoint)
        first = f", the first {described(walk.updates)} of them against nodes of the path"
        guided = "" if settings.trains_fake_score else f" with guidance {settings.guidance_scale:g}"
        target = first if walk.walks_path else f" against the teacher{guided}"
        logger.info(f"Stage 2: {stage.total_steps:,} updates{target}.")
        self._run(stage, checkpoint)

    def _run(self, stage, checkpoint):
        """The log is cut back to the checkpoint only here, where everything has turned out to fit."""
        if self.parallel.is_main and not self._log_is_rewound:
            self.folder.rewind_log(checkpoint)
        self._log_is_rewound = True
        self.trainer.run(stage)
