"""The `recsys` command: arguments in, one call, a readable line or one JSON object out."""

import json
from pathlib import Path
from typing import Annotated

import typer

from pipelines import run as run_pipeline
from pipelines import update as update_pipeline
from pipelines.cli_compare import compare
from pipelines.cli_doctor import diagnose
from pipelines.cli_output import announce, print_result
from pipelines.cli_security import key_app, sign, token_app
from pipelines.cli_serve import serve
from pipelines.cli_simulate import simulate
from pipelines.cli_state import state_app
from pipelines.config import load_settings
from pipelines.environment import errors_in_a_line, set_up
from recsys.errors import ConfigError
from recsys.settings import DataSettings, RecsysSettings

app = typer.Typer(
    help="A two-stage recommender: event log to gRPC answers.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Look at a log before it is used.", no_args_is_help=True)
app.add_typer(data_app, name="data")
app.add_typer(state_app, name="state")
app.add_typer(key_app, name="key")
app.add_typer(token_app, name="token")
app.command()(sign)
app.command()(compare)
app.command()(simulate)
app.command("doctor")(diagnose)
app.command()(serve)

Config = Annotated[Path, typer.Option("--config", help="TOML file, see pipelines/configs.")]
Overrides = Annotated[list[str], typer.Option("--set", help="section.key=value, may be repeated.")]
Out = Annotated[Path, typer.Option("--out", help="Directory of the run.")]
Force = Annotated[bool, typer.Option("--force", help="Do finished steps again.")]
AsJson = Annotated[bool, typer.Option("--json", help="End with one JSON object.")]
TensorBoard = Annotated[
    bool, typer.Option("--tensorboard", help="Write gradients, tables, graph, item vectors too.")
]
StateDirectory = Annotated[
    Path | None, typer.Option("--state", help="Users' states; default: state/ beside the bundle.")
]
BundleDirectory = Annotated[Path, typer.Option("--bundle", help="Directory of the bundle.")]


def main() -> None:
    """Run the command."""
    set_up()
    with errors_in_a_line():
        app()


@app.command()
def run(
    config: Config,
    overrides: Overrides = [],  # noqa: B006  # typer reads the default, nobody changes it
    out: Annotated[Path | None, typer.Option("--out", help="Default: runs/NAME.")] = None,
    force: Force = False,
    tensorboard: TensorBoard = False,
    as_json: AsJson = False,
) -> None:
    """Run every step: prepare, train, index, rank, bundle, state, evaluate."""
    settings, directory = _settings_and_directory(config, overrides, out, tensorboard)
    run_pipeline.main(settings, directory, forced=force, announce=announce)
    _print_evaluation(directory, as_json)


@app.command()
def update(
    older: Annotated[Path, typer.Argument(help="Directory of the run to go on from.")],
    out: Annotated[Path, typer.Option("--out", help="Directory of the new run.")],
    overrides: Overrides = [],  # noqa: B006  # as above
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Learn the days since an older run, without training from the start; make a bundle."""
    update_pipeline.main(older, out, overrides, forced=force, announce=announce)
    _print_evaluation(out, as_json)


def _step_command(step: str, name: str, help_text: str) -> None:
    def command(
        config: Config,
        overrides: Overrides = [],  # noqa: B006  # as above
        out: Annotated[Path | None, typer.Option("--out", help="Default: runs/NAME.")] = None,
        force: Force = False,
        as_json: AsJson = False,
    ) -> None:
        settings, directory = _settings_and_directory(config, overrides, out)
        _run_step(step, settings, directory, force, as_json)

    app.command(name, help=help_text)(command)


def _training_command(step: str, name: str, help_text: str) -> None:
    def command(
        config: Config,
        overrides: Overrides = [],  # noqa: B006  # as above
        out: Annotated[Path | None, typer.Option("--out", help="Default: runs/NAME.")] = None,
        force: Force = False,
        tensorboard: TensorBoard = False,
        as_json: AsJson = False,
    ) -> None:
        settings, directory = _settings_and_directory(config, overrides, out, tensorboard)
        _run_step(step, settings, directory, force, as_json)

    app.command(name, help=help_text)(command)


def _run_step(
    step: str, settings: RecsysSettings, directory: Path, force: bool, as_json: bool
) -> None:
    run_pipeline.run_one(step, settings, directory, forced=force, announce=announce)
    if step == "evaluation":
        _print_evaluation(directory, as_json)
    elif as_json:
        print(json.dumps({"step": step, "directory": str(directory / step)}))


def _settings_and_directory(
    config: Path, overrides: list[str], out: Path | None, tensorboard: bool = False
) -> tuple[RecsysSettings, Path]:
    """Read a configuration; with `tensorboard`, ask both trainings for all and say how to look."""
    stages = ("candidates", "ranking") if tensorboard else ()
    details = [f"{stage}.training.tensorboard_details=true" for stage in stages]
    settings = load_settings(config, [*overrides, *details])
    directory = out or Path("runs") / settings.name
    if tensorboard:
        announce(f"look at the trainings: tensorboard --logdir {directory}")
    return settings, directory


for _step, _name, _help in (
    ("prepared", "prepare", "Read, check and lay out the log."),
    ("index", "index", "Build the index and measure its recall."),
    ("exploration", "train-exploration", "Train the neural process of little known users."),
    ("bundle", "bundle", "Assemble what a server needs."),
    ("evaluation", "evaluate", "Measure the bundle on the test split and write the report."),
):
    _step_command(_step, _name, _help)
_training_command("candidates", "train-candidates", "Train the candidate net.")
_training_command("ranking", "train-ranking", "Train the ranking net.")


@app.command()
def tune(
    config: Config,
    out: Out,
    overrides: Overrides = [],  # noqa: B006  # as above
    trials: Annotated[
        int | None,
        typer.Option("--trials", min=1, help="Of the whole study; default: tune.trials."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Search the settings in [tune.space] by the validation part; goes on with what was begun."""
    try:
        from pipelines import tune as tuning
    except ModuleNotFoundError as error:
        if error.name != "optuna":
            raise
        raise ConfigError(
            "recsys tune needs Optuna, which is not installed; `pip install recsys[tune]`"
        ) from None
    wanted = overrides if trials is None else [*overrides, f"tune.trials={trials}"]
    found = tuning.main(load_settings(config, wanted), out, announce)
    announce(f"use it: recsys run --config {found['config']}; report: {found['report']}")
    print_result(found, as_json)


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="Your log: a Parquet or CSV file, or a folder.")],
    out: Annotated[Path | None, typer.Option("--out", help="Write here, not to stdout.")] = None,
) -> None:
    """Look at your own files and write a configuration with the best guess of their columns."""
    from recsys.data.guess import guess_config

    text = guess_config(path)
    if out is None:
        print(text, end="")
    else:
        out.write_text(text, encoding="utf-8")
        announce(f"wrote {out}; look it through, then: recsys run --config {out}")


@data_app.command()
def validate(
    path: Annotated[Path, typer.Argument(help="Log in the data contract, or a config (.toml).")],
    as_json: AsJson = False,
) -> None:
    """Check a log against the data contract; exit status 1 where rows are rejected."""
    from pipelines.look import validate_log

    summary = validate_log(_data_settings(path))
    print_result(summary, as_json)
    if summary["rejected"] or summary["bad_files"]:
        raise SystemExit(1)


@data_app.command()
def describe(
    path: Annotated[Path, typer.Argument(help="Log in the data contract, or a config (.toml).")],
    as_json: AsJson = False,
) -> None:
    """Show counts, spans, nulls, watch-time quantiles, heaviest users and items."""
    from recsys.data.describe import describe as describe_log
    from recsys.data.sources import open_log

    print_result(describe_log(open_log(_data_settings(path), seed=0)), as_json)


@app.command()
def recommend(
    bundle: BundleDirectory,
    state: StateDirectory = None,
    user: Annotated[str | None, typer.Option("--user", help="One user's id.")] = None,
    users: Annotated[
        Path | None, typer.Option("--users", help="File of ids; without it, all users of --state.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Parquet file of all answers.")] = None,
    num_items: Annotated[int, typer.Option("--items", min=1, help="Items a user.")] = 20,
    explain_items: Annotated[bool, typer.Option("--explain", help="Say why, by item.")] = False,
    as_json: AsJson = False,
) -> None:
    """Answer for one user, or for many into a Parquet file."""
    from pipelines import ask

    recommender = ask.open_recommender(bundle)
    states = state or bundle.parent / "state"
    if user is not None:
        found = ask.find_state(states, user)
        answer = ask.ask_user(recommender, found, num_items=num_items, explained=explain_items)
        print_result(answer, as_json)
    elif out is not None:
        number = ask.answer_users(recommender, states, users, out, num_items)
        print_result(
            {"users": number, "file": str(out), "bundle_id": recommender.bundle_id}, as_json
        )
    else:
        raise ConfigError("recommend expects --user U, or --out FILE (with --users FILE)")


@app.command()
def similar(
    bundle: BundleDirectory,
    item: Annotated[str, typer.Option("--item", help="The item's id.")],
    num_items: Annotated[int, typer.Option("--items", min=1)] = 10,
    as_json: AsJson = False,
) -> None:
    """Show the items whose vectors lie nearest to an item's."""
    from pipelines import ask

    found = ask.open_recommender(bundle).similar_items(item, num_items)
    items = [{"item_id": item_id, "cosine": cosine} for item_id, cosine in found]
    print_result({"item_id": item, "similar": items}, as_json)


@app.command()
def explain(
    bundle: BundleDirectory,
    user: Annotated[str, typer.Option("--user", help="The user's id.")],
    item: Annotated[str, typer.Option("--item", help="The item's id.")],
    state: StateDirectory = None,
    num_items: Annotated[int, typer.Option("--items", min=1, help="Length of the page.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Say why an item is where it is in a user's answer, or why it is missing."""
    from pipelines import ask

    recommender = ask.open_recommender(bundle)
    found = ask.find_state(state or bundle.parent / "state", user)
    request = ask.new_request(recommender, found, num_items=num_items)
    print_result({"user_id": user, **recommender.explain_item(request, item)}, as_json)


def _data_settings(path: Path) -> DataSettings:
    if path.suffix == ".toml":
        return load_settings(path).data
    return DataSettings(source="table", path=str(path))


def _print_evaluation(directory: Path, as_json: bool) -> None:
    evaluation = json.loads((directory / "evaluation" / "metrics.json").read_text())
    announce(f"report: {directory / 'report.html'}")
    print_result(evaluation, as_json)


if __name__ == "__main__":
    main()
