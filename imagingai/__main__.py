"""The command line, built from `TASKS`: `imagingai register ...`, `imagingai batch jobs.csv`, `imagingai run <folder>`."""

from __future__ import annotations

try:
    import argparse
    import dataclasses
    import logging
    import os
    import shutil
    import signal
    import sys
    import tempfile
    import threading
    import time
    from collections.abc import Sequence
    from pathlib import Path
    from typing import Any

    from imagingai import __version__, job
    from imagingai.errors import Cancelled, ImagingAIError, InputError
    from imagingai.federated.command import PREFIX, add_federated
    from imagingai.options import add_arguments, flag
    from imagingai.progress import Bar, Lines
    from imagingai.tasks import TASKS, Task, load
except KeyboardInterrupt:  # Ctrl+C in the first moment
    raise SystemExit(130) from None

GRACE = 5.0  # seconds
MANY = 12  # files that are named
DESCRIPTION = """ImagingAI: medical image registration, segmentation with uncertainty, and federated training.

  imagingai register --fixed atlas.nii.gz --moving patient.nii.gz --output result/
  imagingai segment --image patient.nii.gz --output result/
  imagingai federated --help         train together with other sites, without sending images
  imagingai register --help          all options with limits and defaults
  imagingai list                     what there is: tasks, presets, similarities, weights

Exit codes: 0 done, 2 the input or a setting cannot be used (one sentence says why), 130 stopped."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: idle threads must not burn CPU seconds
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        options = _parser().parse_args(arguments)
        logging.basicConfig(level=logging.WARNING - 10 * options.verbose, format="%(levelname)s: %(message)s", stream=sys.stderr)
        return options.command(options)
    except Cancelled:
        print("\nStopped; no half-written files are left.", file=sys.stderr)
        return 130
    except ImagingAIError as error:
        print(f"\nimagingai: {error}", file=sys.stderr)
        return 2


_interrupted = float("-inf")  # when


def _interrupt(signum: int, frame: Any) -> None:
    """Stop. A second Ctrl+C out of impatience must not disturb the clean-up of the first."""
    global _interrupted
    if time.monotonic() - _interrupted > GRACE:
        _interrupted = time.monotonic()
        raise Cancelled("Stopped on request; nothing was written.")


class _Parser(argparse.ArgumentParser):
    """An unknown option or a bad value ends with one sentence and the way out, not with the whole usage."""

    def error(self, message: str) -> None:  # type: ignore[override]
        self.exit(2, f"imagingai: {message}. See {self.prog} --help.\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="imagingai", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--verbose", action="count", default=0, help="say more (twice: debugging)")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, task in TASKS.items():
        if not name.startswith(PREFIX):
            _add_task(commands, name, task)
    add_federated(commands, _add_task)
    batch = commands.add_parser(
        "batch", help="Run every row of a CSV file.", description=BATCH_HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    batch.add_argument("jobs", type=Path, help="CSV file, one job a row")
    batch.add_argument("--row", type=int, help="run only this row (1 is the first), e.g. in a cluster's job array")
    batch.add_argument("--parallel", type=_positive, default=1, metavar="N", help="rows at a time (default 1); give each --threads")
    batch.set_defaults(command=_batch)
    compare = commands.add_parser(
        "compare",
        help="Compare two batches: Wilcoxon test and Cohen's d.",
        description="Compare two methods on the same cases, metric by metric: A and B are the -results.csv of two batches.",
    )
    compare.add_argument("a", type=Path, metavar="A")
    compare.add_argument("b", type=Path, metavar="B")
    compare.set_defaults(command=_compare)
    run = commands.add_parser(
        "run",
        help="Run a job folder (what panels and clusters do).",
        description="Run the job.json of a folder; progress goes to standard output as JSON lines.",
    )
    run.add_argument("folder", type=Path)
    run.add_argument(
        "--watch-parent", action="store_true", help="stop when standard input ends, that is, with the program that holds its other end"
    )
    run.set_defaults(command=_run_folder)
    commands.add_parser("list", help="List tasks, presets, similarities and weights.").set_defaults(command=_list)
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 1")
    return int(text)


def _add_task(commands: Any, name: str, task: Task) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name, help=task.help, description=f"{task.help}\n\nexample:\n  {task.example}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    files = parser.add_argument_group("files")
    for item in task.inputs:
        files.add_argument(flag(item.name), metavar="FILE", required=item.required, help=item.help)
    files.add_argument("--output", type=Path, required=True, metavar=task.output.upper(), help=f"{task.output} for the result")
    files.add_argument("--overwrite", action="store_true", help="replace an earlier result")
    if task.presets:
        presets = load(task.presets)
        parser.add_argument(
            "--preset", choices=tuple(presets), default="default", help="a set of values for the options below; what you give yourself wins"
        )
    config = load(task.config)
    basic, advanced = parser.add_argument_group("options"), parser.add_argument_group("advanced options")
    add_arguments({False: basic, True: advanced}, config)
    parser.set_defaults(command=_run_task, task=name)
    return parser


def make_job(name: str, values: dict[str, Any], preset: str = "default") -> job.Job:
    """Sort named values into the inputs and the config of a task; a preset fills what is not given."""
    task = TASKS[name]
    inputs = {item.name for item in task.inputs}
    config = {key: value for key, value in values.items() if key not in inputs}
    if task.presets:
        presets = load(task.presets)
        if preset not in presets:
            raise InputError(f"--preset has no choice {preset!r}. Choose from {', '.join(presets)}.")
        config = {**presets[preset], **config}
    return job.Job(name, {key: value and os.path.abspath(value) for key, value in values.items() if key in inputs}, config)


def _run_task(options: argparse.Namespace) -> int:
    fields = {item.name for item in TASKS[options.task].inputs} | {
        field.name for field in dataclasses.fields(load(TASKS[options.task].config))
    }
    values = {key: value for key, value in vars(options).items() if key in fields and value is not None}
    todo = make_job(options.task, values, getattr(options, "preset", "default"))
    run = _run_to_file if TASKS[options.task].output == "file" else _run_to_folder
    result = run(todo, options.output, options.overwrite)
    if result.get("table"):
        print(result["table"])
    names = result["outputs"]
    some = names if len(names) <= MANY else [*names[:3], f"{len(names) - 3} more files"]
    where = options.output if options.output.is_dir() else options.output.absolute().parent
    print(f"Wrote {', '.join(some)} to {where}" + (f"; open {where / 'report.html'}" if "report.html" in names else ""))
    return 0


def _run_to_folder(todo: job.Job, folder: Path, overwrite: bool) -> dict[str, Any]:
    if job.read_result(folder).get("state") == "done" and not overwrite:
        raise InputError(f"{folder} already holds a result. Choose another folder, or add --overwrite to replace it.")
    todo.write(folder)
    return _with_bar(folder)


def _run_to_file(todo: job.Job, target: Path, overwrite: bool) -> dict[str, Any]:
    """Run in a hidden job folder beside the target, then move the one result into place."""
    if os.path.isdir(target):
        raise InputError(f"{target} is a folder. Give the name of the file to write, for example {target / 'result.nii.gz'}.")
    if os.path.exists(target) and not overwrite:
        raise InputError(f"{target} exists. Choose another name, or add --overwrite to replace it.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".imagingai-", dir=target.parent))
    except OSError as error:
        raise InputError(f"Cannot write {target}: {error.strerror}. Choose a folder that you may write to.") from None
    try:
        job.Job(todo.task, todo.inputs, {**todo.config, "name": target.name}).write(folder)
        result = _with_bar(folder)
        os.replace(folder / target.name, target)
        return result
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _with_bar(folder: Path) -> dict[str, Any]:
    bar = Bar()
    try:
        return job.run(folder, bar)
    finally:
        bar.close()


def _run_folder(options: argparse.Namespace) -> int:
    if options.watch_parent:
        threading.Thread(target=_stop_with_parent, daemon=True).start()
    job.run(options.folder, Lines())
    return 0


def _stop_with_parent() -> None:
    """Stop as Ctrl+C would, and if that does not help for good, when the other end of standard input is closed.

    The parent writes a line first. Without it, standard input is not that of the parent (a launcher kept it).
    """
    if os.read(0, 1):
        while os.read(0, 64):
            pass
        signal.raise_signal(signal.SIGTERM)
        time.sleep(GRACE)
        os._exit(130)


BATCH_HELP = """Run every row of a CSV file; the columns are named like the options.

  output,fixed,moving,fixed_labels,moving_labels,preset
  out/01,atlas.nii.gz,01.nii.gz,atlas_labels.nii.gz,01_labels.nii.gz,fast
  out/02,atlas.nii.gz,02.nii.gz,,,

Each row is a job folder (`output`) and runs in a process of its own. A column `task` may name another
task than register. Paths are relative to the CSV file. Start the same command again after a stop: rows
that are finished are not done again, unless a setting, an input or an output has changed since.
Results and reasons of failures go to <name>-results.csv."""


def _batch(options: argparse.Namespace) -> int:
    from imagingai.batch import run_batch

    return run_batch(options.jobs, options.row, options.parallel)


def _compare(options: argparse.Namespace) -> int:
    from imagingai.compare import compare_tables

    print(compare_tables(options.a, options.b))
    return 0


def _list(options: argparse.Namespace) -> int:
    for name, task in TASKS.items():
        print(f"{name.replace(PREFIX, 'federated '):19s} {task.help}\n{'':19s}   {task.example}")
        for key, values in (load(task.presets) if task.presets else {}).items():
            print(f"{'':19s}   --preset {key:10s} {' '.join(f'{flag(a)} {b}' for a, b in values.items())}")
    similarity = next(f for f in dataclasses.fields(load(TASKS["register"].config)) if f.name == "similarity")
    print(f"\n{'similarities':19s} {', '.join(similarity.metadata['choices'])} (weighted sums such as ncc+0.5*mind)")
    library = Path(__file__).parent
    for title, folder in (("weights", library / "weights"), ("models", library / "uncertainty" / "weights")):
        names = sorted(card.stem for card in folder.glob("*.md"))  # their cards, so that torch is not needed to list them
        print(f"{title:19s} {', '.join(names)} (model cards in {folder})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
