"""``tsjax learn``: learn temperatures, and optionally weights, from pairs of a query and a text that answers it."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tsjax.cli.options import (
    add_compile_cache_option,
    add_device_options,
    add_reading_options,
    add_source_options,
    comma_separated,
    load_model,
    on_terminal,
    reading,
)
from tsjax.errors import InputError, require_optional
from tsjax.wording import counted

if TYPE_CHECKING:
    from tsjax.encoders.embedder import Embedder
    from tsjax.lab.learning.comparison import ComparisonRow
    from tsjax.lab.learning.corpora import Corpus
    from tsjax.lab.learning.recipe import Form, Recipe


# With fewer validation pairs, early stopping is unreliable.
_FEW = 20


def add(commands: Any) -> None:
    command = commands.add_parser(
        "learn",
        help="learn temperatures from queries and the texts that answer them",
        description="Learn a temperature for every head (or layer, or one), the weights frozen, so that queries come "
        "near to their texts. Half of the queries are held out; on them, what was learned is compared with no "
        "temperature, the best single one and the best law of length. The same command again goes on where a killed "
        "run stopped.",
        epilog="example: tsjax learn my-questions -o learned. The data are folders as BEIR has them (corpus.jsonl, "
        "queries.jsonl, qrels/test.tsv), or files with query, positive and perhaps negative (.jsonl, .json, .csv, "
        ".tsv, .parquet, .arrow); with several, each step takes one of them. The result is in learned/model.",
    )
    command.set_defaults(command=run, truncate_dim=None, temperature=None)
    command.add_argument("data", metavar="DATA", nargs="+", help="what is learned from: folders, or files of pairs")
    command.add_argument("-o", "--output", metavar="DIR", required=True, help="directory of the run")
    command.add_argument("--model", metavar="M", help="hub name or directory (default: all-MiniLM-L6-v2)")
    command.add_argument(
        "--unseen", metavar="DATA", action="append", default=[], help="compare on this, too; may be repeated"
    )
    add_reading_options(command)
    what = command.add_argument_group("what learns")
    what.add_argument(
        "--form",
        choices=("heads", "layers", "scalar", "none"),
        help="how many temperatures (default: heads; none with --weights)",
    )
    what.add_argument(
        "--law", metavar="LAW", default="none", help="by length: none, log:N, or piecewise:A:B, whose factor learns"
    )
    what.add_argument(
        "--side", choices=("both", "documents", "queries"), default="both", help="whose; the other's stays 1"
    )
    what.add_argument("--weights", action="store_true", help="fine-tune the encoder's weights")
    how = command.add_argument_group("how")
    for name, kind, default, text in (
        ("--steps", int, 60, "optimizer steps at most"),
        ("--batch-size", int, 64, "pairs of a step; a larger batch needs little more memory"),
        ("--train-length", int, None, "cut texts at so many tokens while learning (default: as --max-seq-length)"),
        ("--learning-rate", float, 0.03, "of the temperatures"),
        ("--penalty", float, 0.02, "times the mean of log² τ: holds them near 1"),
        ("--scale", float, None, "of similarities in the loss (default: 20 for cosines, 1 for dot products)"),
        ("--weight-learning-rate", float, 2e-5, "of the weights, at its greatest"),
        ("--weight-decay", float, 0.01, "of the weights"),
        ("--warmup", float, 0.1, "share of the steps in which the weights' rate rises"),
        ("--evaluate-every", int, 5, "steps from one validation, and saved state, to the next"),
        ("--patience", int, 8, "stop after so many validations without a better one"),
        ("--seed", int, 0, "of the split, the batches and the intervals"),
    ):
        said = text if default is None else f"{text} (default: {default})"
        how.add_argument(name, metavar="N" if kind is int else "X", type=kind, default=default, help=said)
    how.add_argument(
        "--matryoshka",
        metavar="N,…",
        type=comma_separated(int, "dimensions such as 256,128"),
        default=(),
        help="leading dimensions to serve as vectors, too",
    )
    how.add_argument(
        "--validation",
        metavar="X",
        type=float,
        default=0.2,
        help="of the pairs not held out, the share that says when to stop (default: 0.2); few pairs say it badly: with "
        "0 all are learned from, for all the steps",
    )
    how.add_argument(
        "--no-refit",
        dest="refit",
        action="store_false",
        help="keep what learned without the pairs that validate; otherwise, once validation has said how many steps "
        "are best, all pairs that are not held out are learned from anew",
    )
    seen = command.add_argument_group("comparison")
    seen.add_argument("--measure", metavar="NAME", default="MRR@10", help="as in tsjax sweep (default: MRR@10)")
    seen.add_argument(
        "--compare",
        metavar="τ,…",
        type=comma_separated(float, "numbers such as 0.95,0.9"),
        default=(1.1, 1.05, 0.95, 0.9, 0.8, 0.7),
        help="scalars to choose the best from",
    )
    seen.add_argument(
        "--compare-law",
        metavar="LAW,…",
        type=comma_separated(str, "laws such as none,log:256"),
        default=("log:256", "piecewise:128:512"),
        help="laws to choose the best from, each with every τ (default: log:256,piecewise:128:512)",
    )
    command.add_argument(
        "--qrels", metavar="NAME", default="test", help="which qrels/NAME.tsv to learn from (default: test)"
    )
    seen.add_argument("--no-compare", action="store_true", help="learn, and compare nothing")
    add_source_options(command)
    command.add_argument("--max-seq-length", metavar="N", type=int, help="cut texts at so many tokens")
    command.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="to compute in")
    command.add_argument("--token-budget", metavar="N", type=int, help="the most tokens of a batch when comparing")
    add_device_options(command)
    add_compile_cache_option(command)


def run(options: argparse.Namespace) -> None:
    from tsjax.encoders.embedder import Embedder
    from tsjax.jobs.input.formats import Reading
    from tsjax.lab.evaluation import grid
    from tsjax.lab.learning.corpora import read_corpus, scored_texts, split_all
    from tsjax.lab.learning.report import lines, save_model, write
    from tsjax.lab.learning.state import RUN
    from tsjax.lab.learning.training import learn, refit

    # All checks come first, before an hour of learning.
    recipe = _recipe(options)
    candidates = () if options.no_compare else grid(options.compare, ("none", *options.compare_law))
    for package in ("matplotlib", *(() if options.no_compare else ("scipy", "ir_measures"))):
        require_optional(package, extra="lab")
    said = reading(options)
    if said != Reading() and all(Path(path).is_dir() for path in [*options.data, *options.unseen]):
        raise InputError("how files are read is said of files of pairs; a folder as BEIR has it is JSON lines and TSV")
    corpora = [read_corpus(path, measure=options.measure, qrels=options.qrels, reading=said) for path in options.data]
    unseen = [read_corpus(path, measure=options.measure, reading=said) for path in options.unseen]
    _check_names([*corpora, *unseen])
    scored = scored_texts(corpora, [] if options.no_compare else unseen, options.seed)
    parts = split_all(corpora, options.seed, options.validation, scored)
    for corpus in corpora:
        for note in corpus.task.sharing:
            _say(f"{corpus.name}: {note}")
        if left := len(corpus.half(options.seed)) - len(corpus.half(options.seed, scored)):
            queries = counted(left, "query", "queries")
            _say(f"{corpus.name}: {queries} left out, for sharing a text with another corpus's scored ones")
    embedder = load_model(options)
    if not isinstance(embedder, Embedder):
        raise InputError("a model with several routes cannot learn; take one of them")
    embedder.temperature = 1.0
    directory = Path(options.output)
    if (directory / RUN).exists():
        _say(f"going on with the run in {directory}")
    validating = sum(len(own) for _, own in parts if own is not None)
    if options.validation and validating < _FEW:
        few = counted(validating, "pair")
        _say(f"only {few} to validate, which says little of when to stop; --validation 0 learns from all")
    training = [own for own, _ in parts]
    validation = [own for _, own in parts if own is not None]
    learned = learn(
        embedder,
        training,
        validation,
        recipe,
        directory=directory,
        report=lambda look: _say(_look(look, recipe.steps)),
    )
    if options.refit and validation:
        learned = refit(
            embedder,
            training,
            validation,
            recipe,
            learned,
            directory=directory / "refit",
            report=lambda look: _say(f"all pairs: {_look(look, learned.best_step)}"),
        )
    save_model(learned, embedder, directory)
    rows: list[ComparisonRow] = []
    if candidates:
        rows = _compare(options, embedder, corpora, unseen, candidates)
    write(learned, recipe, rows, embedder, directory)
    _say(f"wrote {directory}")
    print("\n".join(lines(learned, rows, corpora[0].task.measure)))


def _compare(
    options: argparse.Namespace, embedder: Embedder, corpora: list[Corpus], unseen: list[Corpus], candidates: Any
) -> list[ComparisonRow]:
    """Return the comparison, with the learned parameters reloaded from the saved checkpoint."""
    from tsjax.lab.learning.comparison import compare_learned
    from tsjax.lab.learning.report import MODEL

    after = argparse.Namespace(**vars(options))
    after.model, after.adapter, after.position_stride = str(Path(options.output) / MODEL), None, None
    after.ignore_weight = []
    return compare_learned(
        embedder,
        load_model(after).route(),
        corpora,
        unseen,
        candidates,
        seed=options.seed,
        report=_say,
        show_progress_bar=on_terminal(),
    )


def _recipe(options: argparse.Namespace) -> Recipe:
    from tsjax.lab.evaluation.candidates import law_of
    from tsjax.lab.learning.recipe import Recipe

    form: Form = options.form or ("none" if options.weights else "heads")
    same = {field.name for field in dataclasses.fields(Recipe)} - {"form", "by_length"}
    return Recipe(form=form, by_length=law_of(options.law), **{name: getattr(options, name) for name in same})


def _check_names(corpora: list[Corpus]) -> None:
    names = [corpus.name for corpus in corpora]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"two of the data are called {twice}; give each a name of its own")


def _look(look: dict[str, float | None], steps: int) -> str:
    names = {"loss": "loss", "validation_loss": "validation loss"}
    losses = ", ".join(f"{names[key]} {look[key]:.4f}" for key in names if look[key] is not None)
    return f"step {look['step']} of {steps}" + (f": {losses}" if losses else "")


def _say(message: str) -> None:
    print(f"tsjax: {message}", file=sys.stderr, flush=True)
