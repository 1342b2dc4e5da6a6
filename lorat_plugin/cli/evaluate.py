"""`lorat evaluate`, `compare`, `report` and `submit`: results on benchmarks, and what is made of them."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Optional

import typer

from lorat_plugin.cli import options
from lorat_plugin.errors import InputError
from lorat_plugin.settings import TrackerSettings

if TYPE_CHECKING:
    from lorat_plugin.evaluation.benchmarks import Benchmark
    from lorat_plugin.evaluation.evaluate import Evaluation
    from lorat_plugin.evaluation.results import ResultFiles
    from lorat_plugin.evaluation.scoring import TrackerScore

logger = logging.getLogger(__name__)

SHOWN_FAILURES = 5
SHOWN = 50  # sequences that are listed one by one on the terminal; the files have them all
CHOICE = options.BenchmarkChoice("")


@options.benchmark_options()
@options.settings_options()
def evaluate_command(
    choice: options.BenchmarkChoice = CHOICE,
    settings: TrackerSettings = options.DEFAULTS,
    batch: Annotated[
        int, typer.Option(min=1, help="Sequences at once in each process. 1 alone measures the speed on one target.")
    ] = 8,
    name: Annotated[
        str, typer.Option(help="Of these results: their folder's name and the label in reports.")
    ] = "LoRAT",
    repetitions: Annotated[int, typer.Option(min=1, help="Runs through each sequence, for GOT-10k's files.")] = 1,
    check_official: Annotated[
        Optional[Path], typer.Option(help="Someone's raw results, a folder or zip, to be compared frame by frame.")
    ] = None,
    as_json: options.JsonOption = False,
) -> None:
    """Track the sequences of a benchmark, many at once; write the toolkits' result files, and score them.

    Processes started by torchrun or accelerate launch share the sequences out. A stopped run goes on where it was.

    Example: lorat evaluate --dataset lasot:LaSOT --model lorat_l_224 --weights large.bin --batch 32
    """
    from lorat_plugin.evaluation.evaluate import Evaluation
    from lorat_plugin.evaluation.scoring import check_scorable

    settings.check()
    benchmark = choice.open()
    if choice.protocol or benchmark.scorable:
        check_scorable(benchmark, choice.rules(benchmark))  # before the work, not after it
    official = None if check_official is None else _find_official(check_official, benchmark)
    run = Evaluation(
        settings.network(), benchmark, choice.results, name, settings, batch=batch, style=choice.style,
        repetitions=repetitions,
    )  # fmt: skip
    if run.process.rank > 0:
        return run.play()
    left = run.frames_open()
    logger.info("%s on %s: %d sequences, %d frames to track", name, benchmark.name, len(benchmark), left)
    with options.progress(name, left) as advance:
        run.play(advance)
    if run.failures:
        told = "; ".join(str(error) for error in list(run.failures.values())[:SHOWN_FAILURES])
        raise InputError(
            f"{len(run.failures)} of {len(benchmark)} sequences could not be tracked: {told}; the others are done:"
            f" mend these, or leave them out (--skip {','.join(run.failures)}), and run the same command again"
        )
    _show_results(benchmark, run, choice.protocol, official, as_json)


class _Official(NamedTuple):
    """Someone's raw results, the sequences and frames that they have, and what differs."""

    files: ResultFiles
    benchmark: Benchmark
    notes: list[str]


def _find_official(folder: Path, benchmark: Benchmark) -> _Official:
    """Read all of someone's results before any work, and log what cannot be compared or looks wrong."""
    from lorat_plugin.evaluation.raw_results import find_results, fit_lengths, start_notes

    common, (files,), notes = fit_lengths(benchmark, [find_results(folder, benchmark)], partial=True)
    for note in [*notes, *start_notes(common, files)]:
        logger.warning("%s", note)
    return _Official(files, common, notes)


def _show_results(
    benchmark: Benchmark, run: Evaluation, protocol: Optional[str], official: Optional[_Official], as_json: bool
) -> None:
    """Score the results where the truth is public, compare them with someone's where that is asked for, and print."""
    from lorat_plugin.evaluation.raw_results import compare_runs, show_agreement
    from lorat_plugin.evaluation.scoring import score_tracker
    from lorat_plugin.evaluation.tables import show_table, wide_console, write_tables

    throughput = run.frames / run.seconds if run.frames else None
    content: dict[str, Any] = {
        "skipped": list(benchmark.skipped),
        "results": str(run.files.folder),
        "frames": run.frames,
        "frames_per_second": throughput,
    }
    if throughput:
        kind = "one target at a time" if run.single else f"{run.batch} sequences at once, no speed on one target"
        logger.info("this process: %d frames, %.1f frames/s (%s)", run.frames, throughput, kind)
    logger.info("results: %s", run.files.folder)
    console = wide_console()
    if benchmark.scorable:
        scores = [score_tracker(benchmark, run.files, protocol)]
        write_tables(scores, run.notes)
        logger.info("tables: %s", run.notes)
        content["scores"] = json.loads((run.notes / "scores.json").read_text(encoding="utf-8"))
        if not as_json:
            show_table(scores, console)
    else:
        logger.info("the truth of %s is not public: lorat submit packs the results for its server", benchmark.name)
    if official is not None:
        agreement = compare_runs(official.benchmark, run.files, official.files)
        agreement.notes[:0] = official.notes
        content["agreement"] = asdict(agreement)
        if not as_json:
            show_agreement(agreement)
    if as_json:
        typer.echo(json.dumps(content, indent=2))


@options.benchmark_options("style", "attributes", "rasterize")
@options.settings_options("absent_below")
def compare_command(
    choice: options.BenchmarkChoice = CHOICE,
    trackers: Annotated[
        str,
        typer.Option(
            help="Comma separated; the first is held against each other: LoRAT, static, MIL, KCF, CSRT, NanoTrack,"
            " VitTrack, module:Class (the GOT-10k toolkit's interface), NAME=FOLDER (raw results of others, or a zip)."
        ),
    ] = "LoRAT,VitTrack,static",
    baseline_models: options.BaselineModelsOption = None,
    settings: TrackerSettings = options.DEFAULTS,
    as_json: options.JsonOption = False,
) -> None:
    """Compare LoRAT with other trackers: scores, frames/s, and what of the differences is more than chance.

    Every tracker follows one target at a time. Results that are there already are not tracked again.

    Example: lorat compare --dataset clips:my_clips --trackers LoRAT,MIL,CSRT,Mine=raw_results
    """
    from lorat_plugin.evaluation import compare
    from lorat_plugin.evaluation.scoring import check_scorable, score_tracker

    settings.check()
    benchmark = choice.open()
    check_scorable(benchmark, choice.rules(benchmark))

    def create_lorat() -> Evaluation:
        from lorat_plugin.evaluation.evaluate import Evaluation

        return Evaluation(settings.network(), benchmark, choice.results, compare.LORAT, settings)

    contestants = compare.choose_contestants(
        options.split_names(trackers), benchmark, choice.results, create_lorat, baseline_models
    )
    common, contestants, notes = compare.fit_raw_results(contestants, benchmark, choice.rules(benchmark))
    for note in notes:
        logger.warning("%s", note)
    work = [(one, compare.missing_sequences(one, benchmark)) for one in contestants]
    for one, missing in work:
        logger.info("%s: %d of %d sequences to track", one.files.tracker, len(missing), len(benchmark))
        with options.progress(one.files.tracker, sum(map(len, missing))) as advance:
            compare.track(one, missing, advance)
    scores = [score_tracker(common, one.files, choice.protocol) for one in contestants]
    content = compare.write_comparison(contestants, common, scores, choice.results, notes)
    if as_json:
        typer.echo(json.dumps(content, indent=2))
    else:
        _show_comparison(scores, content)


def _show_comparison(scores: list[TrackerScore], content: dict[str, Any]) -> None:
    from lorat_plugin.evaluation.tables import make_table, show_table, wide_console

    console, rows = wide_console(), []
    show_table(scores, console)
    for duel in content["auc_difference"]:
        interval = f"{duel['low']:+.3f} to {duel['high']:+.3f}"
        counts = [str(duel[key]) for key in ("wins", "losses", "ties")]
        rows.append([duel["rival"], f"{duel['difference']:+.3f}", interval, *counts])
    headings = ("other tracker", "difference", "95 % interval", "won", "lost", "tied")
    title = f"success AUC of {content['first']} less that of the other, mean over sequences"
    console.print(make_table(headings, rows, title))
    if len(content["sequence_auc"]) <= SHOWN:
        rows = [[name, *(f"{auc:.3f}" for auc in aucs.values())] for name, aucs in content["sequence_auc"].items()]
        console.print(make_table(["sequence", *content["trackers"]], rows, "success AUC by sequence"))
    for sentence in content["notes"]:
        console.print(sentence, soft_wrap=True, highlight=False)
    console.print(f"report.html, tables: {content['folder']}", soft_wrap=True, highlight=False)


@options.benchmark_options("attributes", "rasterize")
def report_command(
    choice: options.BenchmarkChoice = CHOICE,
    trackers: Annotated[
        str, typer.Option(help="Names among the results, comma separated; the first one's worst sequences are shown.")
    ] = "LoRAT",
    out: Annotated[Path, typer.Option(help="The page; plots and tables go to a folder beside it, NAME_files.")] = Path(
        "report.html"
    ),
    worst: Annotated[int, typer.Option(min=0, help="Sequences to show with pictures.")] = 5,
) -> None:
    """Write one self-contained HTML page: scores, plots, worst sequences, reliability of the score, settings.

    Example: lorat report --dataset lasot:LaSOT --trackers LoRAT,other --results results --out lasot.html
    """
    from lorat_plugin.evaluation.plots import write_plots
    from lorat_plugin.evaluation.raw_results import fit_lengths, start_notes
    from lorat_plugin.evaluation.report import check_names, write_report
    from lorat_plugin.evaluation.results import notes_folder, result_files
    from lorat_plugin.evaluation.scoring import score_tracker
    from lorat_plugin.evaluation.tables import write_tables

    names = options.split_names(trackers)
    check_names(names)
    benchmark = choice.open()
    files = {name: result_files(benchmark, choice.results, name, choice.style) for name in names}
    for tracker in files.values():
        _check_present(tracker)
    notes = {name: notes_folder(benchmark, choice.results, name) for name in names}
    # those without settings are raw results of others
    raw = [tracker for name, tracker in files.items() if not (notes[name] / "run.json").is_file()]
    benchmark, fitted, remarks = fit_lengths(benchmark, raw, choice.rules(benchmark))
    files |= {tracker.tracker: tracker for tracker in fitted}
    remarks += [note for tracker in fitted for note in start_notes(benchmark, tracker)]
    for remark in remarks:
        logger.warning("%s", remark)
    scores = [score_tracker(benchmark, tracker, choice.protocol) for tracker in files.values()]
    plots = write_report(benchmark, scores, files, notes, out, worst, remarks=remarks)
    beside = out.with_name(f"{out.stem}_files")
    write_plots(plots, beside)
    write_tables(scores, beside)
    logger.info("page: %s; plots and tables: %s", out, beside)


def _check_present(files: ResultFiles) -> None:
    """Raise InputError if a tracker has no folder of results."""
    if not files.folder.is_dir():
        home = files.folder.parent
        others = sorted(p.name for p in home.iterdir() if p.is_dir())[:10] if home.is_dir() else []
        remedy = f"there are {', '.join(others)}" if others else "run lorat evaluate first, or name another folder"
        raise InputError(f"{files.folder}: no results of {files.tracker} there; {remedy}")


@options.benchmark_options("sequences", "protocol", "style", "attributes", "rasterize", dataset="")
def submit_command(
    server: Annotated[str, typer.Argument(help="got10k or trackingnet, whose data set --dataset need not name.")],
    choice: options.BenchmarkChoice = CHOICE,
    out: Annotated[Optional[Path], typer.Option(help="The archive; <server>.zip if left out.")] = None,
    check: Annotated[
        Optional[Path], typer.Option(help="Check this archive and write none; more is checked with --dataset.")
    ] = None,
    partial: Annotated[bool, typer.Option("--partial", help="Some sequences only, for a trial.")] = False,
) -> None:
    """Zip results for the server of GOT-10k or TrackingNet and check the archive, or check one that you have.

    Example: lorat submit got10k --dataset got10k:GOT-10k --results results/GOT-10k/LoRAT
    Example: lorat submit trackingnet --check mine.zip

    --results is a folder of results, or of one tracker's in it; of others' too, in any layout.
    """
    from lorat_plugin.evaluation import submit
    from lorat_plugin.evaluation.raw_results import find_results

    submit.server_rules(server)
    choice = replace(choice, subset=choice.subset or ("test" if server == "got10k" else None))
    if check is not None:
        found = submit.check_archive(check, server, choice.open() if choice.dataset else None, partial)
        submit.raise_problems(found, str(check))
        done = f"{check}: is as the {server} server wants it"
    else:
        benchmark = replace(choice, dataset=choice.dataset or server).open()
        path = (out or Path(f"{server}.zip")).expanduser()
        found = submit.write_archive(path, server, benchmark, find_results(choice.results, benchmark), partial)
        done = f"{path}: {len(benchmark)} sequences, checked"
    for warning in found.warnings:
        logger.warning("%s", warning)
    typer.echo(done)
