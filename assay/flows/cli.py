"""The command line. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import atexit
import gc
import sys
from pathlib import Path
from typing import Annotated

import typer

from assay.flows import cli_pool
from assay.flows.options import PARAMS, JsonOption, ParamsOption, PoolOption, RunnerOption, ServerOption, SetOption
from assay.flows.options import commands as _commands

HELP = "Train, compress, audit whether attributions stay faithful, evaluate: for any combination of methods."

app = typer.Typer(help=HELP, no_args_is_help=True, rich_markup_mode="rich", pretty_exceptions_enable=False)
methods = typer.Typer(help="The methods: list, show, new, check.", no_args_is_help=True)
data = typer.Typer(help="Data sets and their versions: add, list, status.", no_args_is_help=True)
track = typer.Typer(help="What waits to be sent to MLflow.", no_args_is_help=True)
app.add_typer(methods, name="methods")
app.add_typer(data, name="data")
app.add_typer(track, name="track")

STOPPED = 130  # as shells say of Ctrl-C


def _complete_stage(incomplete: str) -> list[str]:
    return [s for s in ("prepare", "train", "compress", "attribute", "evaluate", "report") if s.startswith(incomplete)]


def _complete_method(incomplete: str) -> list[str]:
    from assay.plugins import registry

    return [id for id in registry.index().entries if incomplete in id]


@app.command(epilog="Example: assay init my-project")
def init(folder: Annotated[Path, typer.Argument(help="The new project's folder.")]) -> None:
    """Start a project of your own: params.yaml, dvc.yaml, .dvc and .gitignore."""
    _commands("runs").init(folder)


@app.command(epilog="Example: assay run --set train.epochs=5 --set compress.pruned.0.sparsity=0.9")
def run(
    params: ParamsOption = PARAMS,
    set: SetOption = None,
    only: Annotated[str | None, typer.Option(help="Stop after this stage.", autocompletion=_complete_stage)] = None,
    force: Annotated[list[str] | None, typer.Option(help="Recompute cells whose label fits this pattern.")] = None,
    json: JsonOption = False,
    server: ServerOption = True,
    pool: PoolOption = "",
    runner: RunnerOption = "local",
) -> None:
    """Run the pipeline; what is already there is not computed again. Exit code 3: a gate failed."""
    raise typer.Exit(_commands("runs").run(params, set or [], only, force or [], json, server, pool, runner))


@app.command(epilog="Example: assay plan --set train.optimizer.lr=3e-4")
def plan(
    params: ParamsOption = PARAMS,
    set: SetOption = None,
    force: Annotated[list[str] | None, typer.Option(help="As for run.")] = None,
    all: Annotated[bool, typer.Option("--all", help="Show hits too.")] = False,
    remote: Annotated[bool, typer.Option("--remote", help="Ask store.remote, too, what it has.")] = False,
    json: JsonOption = False,
) -> None:
    """Show each cell with HIT or RUN, and why. Computes nothing."""
    _commands("runs").plan(params, set or [], force or [], all, remote, json)


@app.command(epilog="Example: assay sweep --grid train.optimizer.lr=1e-3,3e-3 --grid seed=0..4 --metric gradient:rank")
def sweep(
    grid: Annotated[list[str] | None, typer.Option(help="a.b=v,v,0..4: every combination of all --grid.")] = None,
    zip: Annotated[list[str] | None, typer.Option(help="a.b=v,v: all --zip move together.")] = None,
    listed: Annotated[Path | None, typer.Option("--list", help="A YAML list of mappings path: value.")] = None,
    params: ParamsOption = PARAMS,
    set: SetOption = None,
    metric: Annotated[list[str] | None, typer.Option(help="A number to look at beside the headline one.")] = None,
    variant: Annotated[str, typer.Option(help="The only variant to look at.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only plan the points.")] = False,
    json: JsonOption = False,
    server: ServerOption = True,
    pool: PoolOption = "",
    runner: RunnerOption = "local",
) -> None:
    """Run many points of the params as one run. Exit code 1: a point failed; 3: only gates failed."""
    asked = (grid, zip, listed, params, set, metric, variant)
    raise typer.Exit(_commands("sweep").sweep(*asked, dry_run, json, server, pool, runner))


@app.command(epilog="Example: assay stage train")
def stage(
    name: Annotated[
        str,
        typer.Argument(help="prepare, train, compress, attribute, evaluate or report.", autocompletion=_complete_stage),
    ],
    variant: Annotated[str, typer.Option(help="One variant of compress; all where empty.")] = "",
    params: ParamsOption = PARAMS,
) -> None:
    """One stage as a plain function, without a server: what dvc.yaml calls."""
    _commands("runs").stage(name, variant, params)


@app.command(epilog="Example: assay report 3f2a --open")
def report(
    run: Annotated[str, typer.Argument(help="A run's id or its beginning; the params' own where empty.")] = "",
    params: ParamsOption = PARAMS,
    set: SetOption = None,
    open: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
) -> None:
    """Print the path of a run's report; the params' own is written again from the store."""
    _commands("runs").report(run, params, set or [], open)


@app.command(epilog="Example: assay compare 3f2a 91bc")
def compare(
    runs: Annotated[list[str], typer.Argument(help="Ids of runs, or their beginnings.")],
    params: ParamsOption = PARAMS,
    json: JsonOption = False,
) -> None:
    """Put the numbers of several runs side by side."""
    _commands("runs").compare(runs, params, json)


@app.command(epilog="Example: assay study randomization_test --with epochs=20")
def study(
    name: Annotated[str, typer.Argument(help="A method of the slot `study`.")],
    given: Annotated[list[str] | None, typer.Option("--with", help="The study's parameters: name=value.")] = None,
    params: ParamsOption = PARAMS,
    set: SetOption = None,
    force: Annotated[bool, typer.Option("--force", help="Compute it again; its trainings are kept.")] = False,
    json: JsonOption = False,
    server: ServerOption = True,
    pool: PoolOption = "",
    runner: RunnerOption = "local",
) -> None:
    """Run an experiment over many trainings of the params' recipe; asked again, its trainings are hits."""
    asked = ("study", name, given or [], None, params, set or [], force)
    _commands("study").study(*asked, json, server, pool, runner)


@app.command(epilog="Example: assay search robot --space 'model.hidden=[[8], [64], [32, 32]]'")
def search(
    name: Annotated[str, typer.Argument(help="A method of the slot `search`.")],
    space: Annotated[list[str] | None, typer.Option(help="Values of a path of the recipe: path=[a, b].")] = None,
    given: Annotated[list[str] | None, typer.Option("--with", help="The search's parameters: name=value.")] = None,
    params: ParamsOption = PARAMS,
    set: SetOption = None,
    force: Annotated[bool, typer.Option("--force", help="Compute it again; its trainings are kept.")] = False,
    json: JsonOption = False,
    server: ServerOption = True,
    pool: PoolOption = "",
    runner: RunnerOption = "local",
) -> None:
    """Look for the best recipe in a space of them; prints the `assay run` that takes it. Methods come by plugins."""
    asked = ("search", name, given or [], space or [], params, set or [], force)
    _commands("study").study(*asked, json, server, pool, runner)


@methods.command("list", epilog="Example: assay methods list train/optimizer")
def methods_list(
    slot: Annotated[str, typer.Argument(help="Only this slot, by the beginning of its name.")] = "",
    json: JsonOption = False,
) -> None:
    """Every method that is installed, imports nothing of it."""
    _commands("methods").methods_list(slot, json)


@methods.command("show", epilog="Example: assay methods show attribute/saliency/integrated_gradients")
def methods_show(
    id: Annotated[str, typer.Argument(help="The method's id.", autocompletion=_complete_method)],
    json: JsonOption = False,
) -> None:
    """A method's card, its parameters with bounds and defaults, and the YAML to paste."""
    _commands("methods").methods_show(id, json)


@methods.command("new", epilog="Example: assay methods new attribute/saliency my_saliency")
def methods_new(
    slot: Annotated[str, typer.Argument(help="The slot, as in `methods list`.")],
    name: Annotated[str, typer.Argument(help="The method's name: that of its file.")],
    root: Annotated[Path, typer.Option(help="The project that it belongs to.")] = Path("."),
) -> None:
    """Write a method's file, with reference and claim tests that fail until they are filled in."""
    _commands("methods").methods_new(slot, name, root)


@methods.command("check", epilog="Example: assay methods check assay-plugin-example")
def methods_check(
    target: Annotated[str, typer.Argument(help="A method's id, or a distribution.", autocompletion=_complete_method)],
    json: JsonOption = False,
) -> None:
    """Run the conformance suite on one method or on a package's methods."""
    raise typer.Exit(_commands("methods").methods_check(target, json))


@data.command("add", epilog="Example: assay data add faces photos/   or   assay data add mnist source/mnist")
def data_add(
    name: Annotated[str, typer.Argument(help="The data set's name.")],
    origin: Annotated[
        str, typer.Argument(help="A folder of images, a .npz, or a source's name; empty: data/NAME as it is now.")
    ] = "",
    set: SetOption = None,
) -> None:
    """Fetch, verify and track a data set, or its new version, with DVC."""
    _commands("data").data_add(name, origin, set or [])


@data.command("list", epilog="Example: assay data list")
def data_list(json: JsonOption = False) -> None:
    """The data sets and their versions."""
    _commands("data").data_list(json)


@data.command("status", epilog="Example: assay data status")
def data_status(json: JsonOption = False) -> None:
    """Whether each data set is as it was added."""
    raise typer.Exit(_commands("data").data_status(json))


@app.command(epilog='Example: assay serve --cron "0 3 * * *"   or   assay serve --interval 3600')
def serve(
    params: ParamsOption = PARAMS,
    set: SetOption = None,
    cron: Annotated[str, typer.Option(help="When to run, as a cron line.")] = "",
    interval: Annotated[float, typer.Option(help="Seconds from start to start.")] = 0.0,
) -> None:
    """Run the pipeline on a schedule; a run that would overlap the last one is skipped."""
    _commands("upkeep").serve(params, set or [], cron, interval)


app.command(epilog="Example: assay deploy --pool gpu --device cuda --gpus 4")(cli_pool.deploy)
app.command(epilog="Example: assay worker --pool gpu")(cli_pool.worker)


@app.command(epilog="Example: assay promote slim-int8")
def promote(
    variant: Annotated[str, typer.Argument(help="The variant whose candidate becomes champion.")],
    params: ParamsOption = PARAMS,
) -> None:
    """Make a variant's registered candidate the champion in MLflow."""
    _commands("models").promote(variant, params)


@app.command(epilog="Example: assay export pruned model.onnx")
def export(
    model: Annotated[str, typer.Argument(help="dense, or a variant.")],
    target: Annotated[Path, typer.Argument(help="The ONNX file to write.")],
    params: ParamsOption = PARAMS,
    set: SetOption = None,
) -> None:
    """Write a model of the finished run as ONNX, and as JSON all that it takes to use it."""
    _commands("models").export(model, target, params, set or [])


@app.command(epilog="Example: assay predict pruned photo.png --saliency gradient --out maps/")
def predict(
    model: Annotated[str, typer.Argument(help="dense, or a variant.")],
    inputs: Annotated[list[Path], typer.Argument(help="Image files, folders of them, or one .npy file of inputs.")],
    params: ParamsOption = PARAMS,
    set: SetOption = None,
    saliency: Annotated[str, typer.Option(help="Also write this method's map of each image.")] = "",
    out: Annotated[Path, typer.Option(help="Folder of what is written.")] = Path("predictions"),
    json: JsonOption = False,
) -> None:
    """Labels and probabilities for images, or any model's predictions of an array, through the preprocessing that
    the model was trained with."""
    _commands("models").predict(model, inputs, params, set or [], saliency, out, json)


@track.command("sync", epilog="Example: assay track sync")
def track_sync(params: ParamsOption = PARAMS) -> None:
    """Send to MLflow what could not be sent when it was computed."""
    raise typer.Exit(_commands("upkeep").track_sync(params))


@app.command(epilog="Example: assay ui   and, to end the servers: assay ui --stop")
def ui(
    params: ParamsOption = PARAMS,
    port: Annotated[int, typer.Option(help="MLflow's port on loopback; 0: any free one.")] = 0,
    stop: Annotated[
        bool, typer.Option("--stop", help="End what runs for this project: each `ui` and the Prefect server.")
    ] = False,
) -> None:
    """Serve the MLflow and Prefect pages on loopback until Ctrl-C."""
    _commands("upkeep").ui(params, port, stop)


@app.command(epilog="Example: assay doctor")
def doctor(params: ParamsOption = PARAMS, json: JsonOption = False) -> None:
    """Check versions, devices, servers, disk and plugins."""
    raise typer.Exit(_commands("upkeep").doctor(params, json))


@app.command(epilog="Example: assay clean --older-than 30 --keep-gb 20")
def clean(
    params: ParamsOption = PARAMS,
    older_than: Annotated[
        float | None, typer.Option(help="Remove artifacts that no run used for so many days.")
    ] = None,
    keep_gb: Annotated[
        float | None, typer.Option(help="Remove the longest unused until the store is this small.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
) -> None:
    """Make the store smaller; never removes what a registered model needs."""
    _commands("upkeep").clean(params, older_than, keep_gb, dry_run)


def main(arguments: list[str] | None = None) -> None:
    """The entry point of `assay`: errors for people become one message and an exit code, no traceback."""
    atexit.register(gc.freeze)  # or Python would look through torch's objects once more before it ends
    try:
        code = app(args=arguments, standalone_mode=False)
    except (typer.Abort, KeyboardInterrupt):
        code = STOPPED
    except Exception as error:
        code = explain(error)
    if code == STOPPED:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
    sys.exit(code if isinstance(code, int) else 0)


def explain(error: Exception) -> int:
    """Prints an error that is meant for people and returns its exit code; raises any other again."""
    if hasattr(error, "show"):  # a usage error; typer does not export the class
        error.show()
        return int(error.exit_code)  # type: ignore[attr-defined]
    code = getattr(error, "code", None)
    text = str(error)
    if not isinstance(code, int):
        from assay.tasks.disk import full_text, is_full

        if is_full(error):
            text = full_text(Path.cwd())
        elif isinstance(error, OSError) and error.filename:
            text = f"{error.filename}: {(error.strerror or type(error).__name__).lower()}"
        else:
            raise error
        code = 1
    for line in text.splitlines():
        print(f"error: {line}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
