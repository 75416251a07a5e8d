# Copyright 2026 The disback-diffusers authors. Licensed under the Apache License, Version 2.0.
"""`--dry_run`: what a run would do and cost, computed on the meta device, without loading weights."""

import torch
from accelerate import Accelerator

from ..errors import counted
from ..models.denoiser import Denoiser
from ..models.roles import Roles
from .activations import saved_bytes
from .arguments import DistillationArguments
from .build import DTYPES, make_roles
from .objectives import OBJECTIVES, Objective
from .sources import Sources
from .switching import NodeWalk, count_stays, described


GIB = 2**30


def print_plan(
    args: DistillationArguments, sources: Sources, accelerator: Accelerator, objective: type[Objective]
) -> None:
    """Print parameters by role, memory by part, size of the path and forwards of a run, and whether it fits."""
    plan = Plan(args, sources, DTYPES[accelerator.mixed_precision], accelerator.num_processes, objective)
    for name, text in plan.rows():
        accelerator.print(f"{name:10} {text}")


class Plan:
    """What a run would cost.

    Args:
        args (`DistillationArguments`), sources (`Sources`).
        dtype (`torch.dtype`): of the frozen base and of autocast.
        processes (`int`).
        objective (`type[Objective]`, *optional*): by default the one that the settings name.

    Attributes:
        base, lora, own, student (`int`): parameters of the base, of the fake score's adapter, of a full student's own
            network (else 0), and of the student, whatever it is. adapters (`dict[str, int]`): of each role.
    """

    def __init__(
        self,
        args: DistillationArguments,
        sources: Sources,
        dtype: torch.dtype,
        processes: int = 1,
        objective: type[Objective] | None = None,
    ):
        self.args, self.sources, self.family = args, sources, sources.family
        self.dtype, self.processes = dtype, processes
        self.objective = objective or OBJECTIVES[args.objective.objective]
        self.roles = self._meta_roles()
        self.adapters = {name: _count(self.roles.parameters(name)) for name in self.roles.names}
        self.lora, self.base = self.adapters.get("fake", 0), _count(self.roles.network.parameters())
        self.base -= sum(self.adapters.values())
        self.own_network = self._meta_student()
        self.own = _count(self.own_network.parameters()) if self.own_network else 0
        self.student = self.own or self.adapters["student"]

    def _meta_roles(self) -> Roles:
        """The base and its roles on the meta device, all in the precision of their computations."""
        with torch.device("meta"):
            roles = make_roles(self.family, self.family.build_network(), self.args, self.sources.student)
        _cast(roles.network, self.dtype)
        return roles

    def _meta_student(self) -> torch.nn.Module | None:
        with torch.device("meta"):
            network = self.sources.student.build_network(self.family)
        return network and _cast(network, self.dtype)

    # -----------------------------------------------------------------------------------------------------------------

    def rows(self) -> list[tuple[str, str]]:
        """The lines of the plan: topic and text."""
        args, family = self.args, self.family
        buckets = family.buckets(args.data.resolution)
        rows = [
            ("teacher", f"{family.name}: {self.base / 1e6:,.1f} M parameters, {family.schedule.prediction_type}"),
            *self._adapter_rows(),
            ("student", f"{self._student_kind()}, {self._start()}"),
            ("samples", ", ".join("x".join(map(str, bucket.shape)) for bucket in buckets)),
            *self._work(),
        ]
        memory = {**self.weights(), **self.activations()}
        rows += [("memory", f"{part}: {size / GIB:,.2f} GiB") for part, size in memory.items() if size]
        total = sum(memory.values())
        rows.append(("memory", f"together: {total / GIB:,.2f} GiB on each GPU (computed, not measured)"))
        return [*rows, ("GPU", _compared(total))]

    def _adapter_rows(self):
        """One for the adapters of each rank and size."""
        groups = {}
        for name, size in self.adapters.items():
            groups.setdefault((self.roles.lora_config(name)["r"], size), []).append(name)
        return [
            (
                "adapters",
                f"{', '.join(names)}: rank {rank}, {size / 1e6:,.1f} M parameters{' each' if names[1:] else ''}",
            )
            for (rank, size), names in groups.items()
        ]

    def _start(self):
        student = self.args.student
        if own := self.sources.student.own_sampler:
            return f"{counted(own.steps, 'step')} of the teacher's sampler, without guidance"
        timestep, sigma = student.conditioning_timestep, student.conditioning_sigma
        if student.student_steps > 1:
            return f"{student.student_steps} steps at {student.timesteps}"
        return f"timestep {timestep}" if sigma is None else f"noise level {sigma:g}"

    def _student_kind(self):
        student = self.args.student
        if student.student_unet and self.own:
            return f"full, {student.student_unet}: {self.own / 1e6:,.1f} M parameters"
        return student.student

    def _work(self):
        args, path, nodes = self.args, self.sources.path, self._nodes()
        samples = args.data.train_batch_size * args.data.gradient_accumulation_steps * self.processes
        updates = args.objective.fake_score_updates_per_step
        settings = args.objective
        forwards = self.objective.forwards(settings) + args.student.rollout_forwards
        forwards += (updates - 1) * self.objective.fake_score_forwards(settings)
        rows = [(self._topic(), f"{len(self.sources.prompts):,}; {counted(samples, 'sample')} an update")]
        if self.sources.prompts == [""]:
            rows = [("batch", f"{counted(samples, 'sample')} an update, unconditional")]
        if settings.warmup_pairs or self.objective.draws_pairs(bool(self.sources.real)):
            rows.append(
                ("pairs", f"{settings.teacher_pairs:,} of the teacher, in {settings.teacher_pairs_steps} steps")
            )
        if settings.warmup_pairs:
            rows.append(("warm-up", f"{settings.warmup_pairs:,} updates of the student by regression on pairs"))
        if nodes:
            length = f"reused from {path.folder}" if path else f"{args.path.degradation_steps} updates"
            rows.append(
                ("stage 1", f"{length}, {counted(nodes, 'node')}, {nodes * self.lora * 4 / 2**20:,.0f} MiB on disk")
            )
        steps, stays = args.optimization.max_train_steps, count_stays(nodes + 1) if self._may_walk() else 0
        walk = NodeWalk.back_from(stays + 2, args.steps_per_stay(stays))
        most = "up to " if args.path.node_switching == "adaptive" and not path else ""
        walked = f", {most}{described(walk.updates)} of them at nodes of the path" if stays else ""
        rows.append(("stage 2", f"{steps:,} updates of {forwards:g} forwards of the network a sample{walked}"))
        return rows

    def _topic(self):
        return "classes" if self.family.classes else "prompts"

    def _nodes(self):
        """Nodes of the path, without the teacher: its end alone where the path is not walked."""
        settings, path = self.args.path, self.sources.path
        if path:
            return len(path) - 1
        if not self.args.needs_path:
            return 0
        return settings.degradation_nodes if self._may_walk() else 1

    def _may_walk(self):
        """Whether stage 2 may have other targets than the teacher."""
        settings, path = self.args.path, self.sources.path
        return settings.walks(path) if path else not settings.no_backtracking

    def weights(self) -> dict[str, int]:
        """Bytes of weights and of what training keeps for each of them, by part."""
        size, trained = self.dtype.itemsize, self.student + self.lora
        memory = {
            "base, frozen": self.base * size,
            "adapters": sum(self.adapters.values()) * 4,
            "student's own network": self.own * 4,
            "its copy in lower precision": self.own * size if size < 4 else 0,
            "moving average": self.student * 4,
            "gradients": trained * 4,
            "optimizers": self._optimizer_states(),
        }
        if self.args.data.cache_text_embeddings == "off":
            memory["text encoders"] = self.family.count_encoder_parameters() * size
        return memory

    def _optimizer_states(self):
        """Adam keeps two moments of every parameter, SGD none."""
        optimization = self.args.optimization
        size = 2 if optimization.use_8bit_adam else 8
        pairs = (self.student, optimization.optimizer), (self.lora, optimization.fake_optimizer)
        return sum(count * size for count, kind in pairs if kind != "sgd")

    def activations(self) -> dict[str, int]:
        """Bytes of activations at their peak: the student's graph waits while that of the fake score is worked off.

        Without checkpointing it is a lower bound: norms in float32 and casts within the adapters come on top on a GPU.
        """
        if not self.args.objective.trains_fake_score:
            return {"activations": sum(self._saved_by_student())}
        with self.roles("fake"):
            fake, fake_block = self._saved(self.roles.network)
        student, student_block = self._saved(self.own_network) if self.own_network else (fake, fake_block)
        return {"activations": student + fake + max(student_block, fake_block)}

    def _saved_by_student(self):
        if self.own_network:
            return self._saved(self.own_network)
        with self.roles("student"):
            return self._saved(self.roles.network)

    def _saved(self, network):
        buckets, n = self.family.buckets(self.args.data.resolution), self.args.data.train_batch_size
        largest = max(buckets, key=lambda bucket: torch.Size(bucket.shape).numel())
        conditions = self.family.example_conditions().joined(largest.conditions).expand(n)
        conditions = conditions.to("meta")
        x_t, t = torch.zeros(n, *largest.shape, dtype=self.dtype, device="meta"), torch.zeros(n, device="meta")
        denoiser = Denoiser(self.family, network, self.family.schedule, device="meta")
        return saved_bytes(
            network, lambda: denoiser.output(x_t, t, conditions), self.args.system.gradient_checkpointing
        )


def _count(parameters):
    return sum(parameter.numel() for parameter in parameters)


def _cast(network, dtype):
    for parameter in network.parameters():
        parameter.data = parameter.data.to(dtype)
    return network


def _compared(total):
    if not torch.cuda.is_available():
        return "this machine has no GPU to compare with; CUDA itself takes about 1 GiB more"
    name, size = torch.cuda.get_device_name(), torch.cuda.get_device_properties(0).total_memory
    fits = "fits" if total + GIB < size else "does NOT fit"
    return f"{fits} the {name} with {size / GIB:,.1f} GiB (1 GiB allowed for CUDA itself)"
