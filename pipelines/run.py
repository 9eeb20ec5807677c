"""Every step from the log to the evaluation, each in its own directory below one.

    prepared -> candidates -> index -> ranking -> exploration -> bundle -> state -> evaluation,
    report.html

Imports of a step's libraries wait until the step runs, so that a finished run starts at once.
"""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from pipelines.paths import RunPaths
from pipelines.steps import read_identity, run_step
from recsys.artefacts import MANIFEST, hash_file
from recsys.data.prepared import load_prepared
from recsys.settings import RecsysSettings

STEPS = (
    "prepared",
    "candidates",
    "index",
    "ranking",
    "exploration",
    "bundle",
    "state",
    "evaluation",
)

Announce = Callable[[str], None]


def main(
    settings: RecsysSettings, out: Path, *, forced: bool = False, announce: Announce = print
) -> None:
    """Run every step that is not done yet.

    Args:
        settings: The configuration.
        out: Directory of the run.
        forced: Do finished steps again.
        announce: Takes a line for the user.
    """
    for step in STEPS:
        run_one(step, settings, out, forced=forced, announce=announce)


def run_one(
    step: str,
    settings: RecsysSettings,
    out: Path,
    *,
    forced: bool = False,
    announce: Announce = print,
) -> None:
    """Run one step; the steps that it reads from must be done.

    Raises:
        ArtefactError: A step before it is missing, or this one was done with other settings.
    """
    paths = RunPaths(out)
    reason = _why_left_out(step, settings, paths)
    if reason:
        announce(f"{step}: {reason}")
        return
    inputs = {"settings": settings_of(step, settings), "parents": _parents(step, settings, paths)}
    target = paths.root / step
    run_step(
        target,
        inputs,
        lambda directory: _work(step, settings, paths, directory),
        resume_key=_resume_key(step, paths),
        forced=forced,
        announce=announce,
    )


def _work(step: str, settings: RecsysSettings, paths: RunPaths, directory: Path) -> None:
    job = import_module(_JOBS[step])
    if step == "prepared":
        job.main(settings, directory)
    elif step in _TRAININGS:
        job.main(settings, paths.prepared, directory)
    elif step == "index":
        job.main(settings, paths.candidates, directory)
    else:
        job.main(settings, paths, directory)


_JOBS = {
    "prepared": "pipelines.prepare",
    "candidates": "pipelines.train_candidates",
    "index": "pipelines.build_index",
    "ranking": "pipelines.train_ranking",
    "exploration": "pipelines.train_exploration",
    "bundle": "pipelines.make_bundle",
    "state": "pipelines.export_state",
    "evaluation": "pipelines.evaluate",
}

_PARENTS = {
    "prepared": (),
    "candidates": ("prepared",),
    "index": ("candidates",),
    "ranking": ("prepared",),
    "exploration": ("prepared",),
    "bundle": ("prepared", "candidates", "index", "ranking", "exploration"),
    "state": ("prepared",),
    "evaluation": ("bundle",),
}


_TRAININGS = ("candidates", "ranking", "exploration")
_GUARDS = {
    "checkpoint_seconds",
    "checkpoint_steps",
    "checkpoints_kept",
    "max_loss_ratio",
    "tensorboard_details",
}
"""Settings that guard or show a training and do not change what comes out of it."""
_INPUTS = (
    "user_categorical",
    "item_categorical",
    "bias_categorical",
    "user_numeric",
    "item_numeric",
    "history_length",
    "recent_length",
)
"""Settings of the ranking net that its inputs depend on, which the neural process has too."""


def _resume_key(step: str, paths: RunPaths) -> str | None:
    """Return what a training has to have been begun on: the log as prepared, to the byte."""
    return hash_file(paths.prepared / MANIFEST) if step in _TRAININGS else None


def _parents(step: str, settings: RecsysSettings, paths: RunPaths) -> dict[str, str]:
    older = settings.candidates.warm_start
    if step == "candidates" and older is not None:
        identity = read_identity(RunPaths(Path(older)).candidates)
        return {**_present(step, settings, paths), "warm_start": identity}
    return _present(step, settings, paths)


def _present(step: str, settings: RecsysSettings, paths: RunPaths) -> dict[str, str]:
    is_ranked = paths.ranking.exists()
    is_present = {"ranking": is_ranked, "exploration": is_ranked and settings.exploration.enabled}
    present = (name for name in _PARENTS[step] if is_present.get(name, True))
    return {name: read_identity(paths.root / name) for name in present}


def settings_of(step: str, settings: RecsysSettings) -> dict[str, Any]:
    """Return the part of the settings that a step's result depends on."""
    trainings = {step: {"training": _GUARDS} for step in _TRAININGS}
    whole = settings.model_dump(mode="json", exclude=trainings)
    if step == "prepared":
        columns = {
            "context": whole["candidates"]["context"],
            **{
                name: whole["ranking"][name]
                for name in (
                    "enabled",
                    "user_categorical",
                    "bias_categorical",
                    "item_categorical",
                    "user_numeric",
                    "completion_column",
                    "like_column",
                )
            },
        }
        data = {key: value for key, value in whole["data"].items() if key != "processes"}
        return {"data": data, "split": whole["split"], "seed": settings.seed, "columns": columns}
    if step == "exploration":
        inputs = {name: whole["ranking"][name] for name in _INPUTS}
        return {"exploration": whole["exploration"], "inputs": inputs, "seed": settings.seed}
    parts = {
        "candidates": ("candidates", "seed"),
        "index": ("index", "seed"),
        "ranking": ("ranking", "seed"),
        "bundle": ("name", "serving"),
        "state": (),
        "evaluation": ("evaluation", "seed"),
    }
    return {name: whole[name] for name in parts[step]}


def _why_left_out(step: str, settings: RecsysSettings, paths: RunPaths) -> str:
    """Say why a step is not to be done, empty if it is."""
    if step == "exploration" and not settings.exploration.enabled:
        return "left out by the configuration"
    if step not in ("ranking", "exploration"):
        return ""
    if not settings.ranking.enabled:
        return "left out by the configuration; items are served in candidate order"
    if not any(len(shard.ranking.user) for shard in load_prepared(paths.prepared).shards):
        return "the log has no watch time; items are served in candidate order"
    return ""
