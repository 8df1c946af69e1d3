"""Options that several commands share, and their translation to the library's arguments."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tsjax.errors import InputError, TsjaxError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tsjax.checkpoints.conversion_options import SourceOptions
    from tsjax.encoders.embedder import Embedder
    from tsjax.encoders.router import RoutedEmbedder
    from tsjax.encoders.signatures import EmbedderOptions, LoadOptions, PlacementOptions
    from tsjax.jobs.input.formats import Reading
    from tsjax.temperature import Temperature


def source(options: argparse.Namespace) -> SourceOptions:
    """Return the values of `add_source_options` under the library's names."""
    return {
        "revision": options.revision,
        "local_files_only": options.local_files_only,
        "ignore_config_fields": options.ignore_config_field,
        "adapter": options.adapter,
        "position_stride": options.position_stride,
        "ignore_weights": options.ignore_weight,
    }


def load_keywords(options: argparse.Namespace) -> LoadOptions:
    """Return the keywords of `tsjax.load` for the model that the options ask for."""
    own: EmbedderOptions = {
        "temperature": options.temperature,
        "dtype": options.dtype,
        "max_seq_length": options.max_seq_length,
        "truncate_dim": options.truncate_dim,
        "token_budget": options.token_budget,
    }
    return cast("LoadOptions", {**source(options), **own, **placement(options)})


def load_model(options: argparse.Namespace) -> Embedder | RoutedEmbedder:
    """Load the embedding model that the options ask for, with or without a persistent compilation cache."""
    from tsjax.api import load_embedder

    _use_compile_cache(wanted=not options.no_compile_cache)
    return load_embedder(options.model, **load_keywords(options))


def add_device_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--devices", metavar="N", type=int, help="how many devices to use (default: all there are)")
    command.add_argument(
        "--shard-parameters",
        action="store_true",
        help="share the parameters out among the devices, for a model that one cannot hold",
    )


def placement(options: argparse.Namespace) -> PlacementOptions:
    """Return the values of `add_device_options` under the library's names."""
    return {"devices": options.devices, "shard_parameters": options.shard_parameters}


def add_source_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--revision", metavar="R", help="branch, tag or commit on the hub")
    command.add_argument("--local-files-only", action="store_true", help="never use the network")
    command.add_argument(
        "--ignore-config-field",
        metavar="NAME",
        action="append",
        default=[],
        help="accept a field of config.json or tokenizer_config.json that tsjax does not know; chat_template embeds "
        "texts as they are; may be repeated",
    )
    command.add_argument(
        "--ignore-weight",
        metavar="PATTERN",
        action="append",
        default=[],
        help="leave out the weights of these names, such as 'classifier.*'; may be repeated",
    )
    command.add_argument("--adapter", metavar="NAME", help="merge this task adapter of the model (default: none)")
    command.add_argument(
        "--position-stride",
        metavar="N",
        type=int,
        help="short texts use every N-th row of the position table (default: what the model is known for, usually 1)",
    )


def add_kind_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--kind",
        choices=("embedder", "cross_encoder"),
        help="what to make of a sequence classification model (default: a cross-encoder, unless modules.json pools)",
    )


def add_embedding_options(command: argparse.ArgumentParser) -> None:
    """Add the options of the model, of the texts before it and of the vectors after it."""
    command.add_argument("--model", metavar="M", help="hub name or directory (default: all-MiniLM-L6-v2)")
    add_source_options(command)
    add_temperature(command, "of the attention softmax (default: the one saved with the model, usually 1)")
    command.add_argument("--prompt-name", metavar="NAME", help="one of the model's prompts, put before each text")
    command.add_argument("--prompt", metavar="TEXT", help="text put before each text; wins over --prompt-name")
    command.add_argument(
        "--task",
        choices=("query", "document"),
        help="use the model's prompt, temperature and encoder for queries or for documents",
    )
    command.add_argument("--normalize", action="store_true", help="divide each vector by its norm")
    command.add_argument("--truncate-dim", metavar="N", type=int, help="keep so many leading dimensions")


def add_reading_options(command: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add the options for reading rows from files."""
    from tsjax.jobs.input.formats import FORMATS

    command.add_argument(
        "--input-format",
        choices=FORMATS,
        help="instead of going by each file's name and first bytes; jsonl and json are both JSON lines or one array",
    )
    command.add_argument(
        "--csv-quote",
        metavar="C",
        help='CSV and TSV: the quotation mark around cells, or none (default: " for CSV, none for TSV)',
    )
    command.add_argument(
        "--csv-escape",
        metavar="C",
        help="CSV and TSV: the escape character; \\ with quotes as Spark writes it, with --csv-quote none as Hive does "
        "(default: none, a quotation mark is doubled)",
    )
    command.add_argument(
        "--csv-delimiter",
        metavar="C",
        help=r"CSV and TSV: between cells, such as ';', \t or \x01 (default: a comma for CSV, a tab for TSV)",
    )


def reading(options: argparse.Namespace) -> Reading:
    """Return the values of `add_reading_options`."""
    from tsjax.jobs.input.formats import Reading

    delimiter = options.csv_delimiter
    if delimiter is not None and delimiter.startswith("\\") and len(delimiter) > 1:
        with contextlib.suppress(ValueError):
            delimiter = delimiter.encode().decode("unicode_escape")
    return Reading(options.input_format, delimiter, options.csv_quote, options.csv_escape)


def comma_separated(kind: Callable[[str], Any], what: str) -> Callable[[str], tuple[Any, ...]]:
    """Return a parser of an option's list of values; ``what`` describes the values in its error, with an example."""

    def read(text: str) -> tuple[Any, ...]:
        with contextlib.suppress(ValueError):
            if values := tuple(kind(part.strip()) for part in text.split(",") if part.strip()):
                return values
        raise argparse.ArgumentTypeError(f"{text!r:.60} is no list of {what}")

    return read


def add_compile_cache_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--no-compile-cache",
        action="store_true",
        help="compile anew, and do not keep compiled programs in tsjax's cache directory for the next time",
    )


def _use_compile_cache(*, wanted: bool) -> None:
    """Enable the compilation cache if possible. A failure stops no command."""
    from tsjax.storage.compile_cache import disable_compile_cache, enable_compile_cache

    if not wanted:
        disable_compile_cache()
        return
    try:
        enable_compile_cache()
    except TsjaxError as error:
        print(f"tsjax: compiled programs are not kept: {error}", file=sys.stderr)
    # For example a full disk. The results are the same without a cache.
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache", UserWarning)


def add_temperature(command: argparse.ArgumentParser, purpose: str) -> None:
    command.add_argument(
        "--temperature",
        metavar="τ",
        type=_temperature,
        help=f"temperature {purpose}: one number, or JSON: a list of one a layer, a list of lists of one a head, or "
        '{"value": 0.9, "by_length": {"law": "log", "reference_length": 128}} for τ · log 128 / log n; or a .json file '
        "of these, such as tsjax learn writes",
    )


def _temperature(text: str) -> Any:
    """Parse the value of --temperature for argparse."""
    from tsjax.temperature import Temperature

    try:
        content = Path(text).read_text(encoding="utf-8") if text.endswith(".json") else text
        value = json.loads(content)
        return Temperature.from_json(value) if isinstance(value, dict) else value
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise argparse.ArgumentTypeError(
            f"{text!r:.60} is neither a number nor JSON, nor a .json file of them"
        ) from None


def parse_temperature(text: str) -> Temperature:
    """Return a temperature from an option's value; an invalid value is an error of the option."""
    from tsjax.temperature import Temperature

    try:
        return Temperature.of(_temperature(text))
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def on_terminal() -> bool:
    """Return whether standard error is a terminal."""
    return sys.stderr is not None and sys.stderr.isatty()
