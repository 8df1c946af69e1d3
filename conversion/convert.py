"""Conversion of a Hugging Face or sentence-transformers directory to a tsjax checkpoint, strict in both directions."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from conversion.adapters import with_task
from conversion.classifier import label_count
from conversion.families import family_of
from conversion.fields import Fields
from conversion.ignored import IgnoredWeights
from conversion.kinds import head_weights, is_causal, is_classifier
from conversion.modules import check_classes, in_order, read_modules
from conversion.router import read_router
from conversion.rules import Names, apply, check_copies, expand, match
from conversion.sentence_transformers import Stack, read_scorer, read_stack
from conversion.source import open_tensors, read_json_object
from conversion.tokenizer import read_tokenizer
from tsjax.checkpoints.conversion_options import INSTRUCTORS, Options
from tsjax.checkpoints.format import Metadata, kept_shapes, save
from tsjax.checkpoints.routed import save_routed
from tsjax.errors import CheckpointError, ConfigError, ConversionError, InputError
from tsjax.model.config import ModelConfig, PoolingConfig
from tsjax.model.forward import weight_shapes
from tsjax.storage.atomic import check_absent
from tsjax.temperature import Temperature
from tsjax.text.pairs import PairTokenizer
from tsjax.text.tokenizer import TextTokenizer
from tsjax.validation.numbers import is_whole_number

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from pathlib import Path
    from typing import Unpack

    import numpy as np
    from numpy.typing import NDArray

    from conversion.modules import Module
    from conversion.rules import Rule
    from conversion.source import Tensors
    from conversion.tokenizer import TokenizerSource
    from tsjax.checkpoints.conversion_options import ConversionOptions
    from tsjax.checkpoints.format import FlatWeights, Header, Kind
    from tsjax.checkpoints.routed import RoutedHeader
    from tsjax.model.config import EncoderConfig

# Used where neither the checkpoint nor its position table gives a maximum length.
_USUAL_LENGTH = 512


def convert(
    source: Path,
    destination: Path,
    *,
    temperature: Temperature | None = None,
    overwrite: bool = False,
    name: str | None = None,
    assumed: Collection[str] = (),
    kind: Kind | None = None,
    **choices: Unpack[ConversionOptions],
) -> Header | RoutedHeader:
    """Convert a checkpoint directory; a checkpoint with a Router becomes a routed checkpoint.

    Args:
        source: a directory in the format of Hugging Face or of sentence-transformers.
        destination: the directory to create.
        temperature: τ to save in the checkpoint; None for 1.
        overwrite: whether a checkpoint at the destination may be replaced.
        name: the source to record; None for the directory's path.
        assumed: sentences to record about files that could not be inspected.
        kind: the kind of model: an embedder, also of a checkpoint with a classifier, or a cross-encoder; None to keep
            the kind of the checkpoint.
        choices: see `tsjax.checkpoints.conversion_options.Options`.

    Raises:
        ConversionError: something in the source is missing, damaged, unknown or contradictory; or the source is not of
            the requested kind; or a pattern matches no weight.
        InputError: an adapter, a pattern, a kind or a stride is invalid for every checkpoint.
        OutputError: the destination exists, or cannot be written.
    """
    options = Options.of(kind, **choices)
    options = options.for_source(name or "", source.resolve().name)
    check_absent(destination, directory=True, overwrite=overwrite)
    if not source.is_dir():
        raise ConversionError(f"{source} is not a directory")
    if (source / "adapter_config.json").exists():
        raise ConversionError(f"{source} holds an adapter; merge it into its model first")
    modules = read_modules(source)
    router = read_router(modules, options.ignore_config_fields)

    if router is not None and kind == "cross_encoder":
        raise ConversionError(f"{source} has a Router, which leads to embedders; it is not a cross-encoder")
    ignored = IgnoredWeights(options.ignore_weights)

    def translated(chain: Sequence[Module]) -> tuple[Metadata, FlatWeights, str]:
        part = _translate(source, chain, options, temperature or Temperature(), name or str(source), ignored)
        return (dataclasses.replace(part[0], assumed=(*assumed, *part[0].assumed)), *part[1:])

    def parts(chains: Sequence[Sequence[Module]]) -> Iterator[tuple[Metadata, FlatWeights, str]]:
        yield from map(translated, chains)
        ignored.check(source)

    if router is None:
        (part,) = parts([in_order(modules) if modules else ()])
        return save(destination, *part, overwrite=overwrite)
    return save_routed(destination, router.config, parts(router.chains), overwrite=overwrite)


def axes(encoder: EncoderConfig) -> dict[str, int]:
    """Return the sizes of the axes that layouts split: heads, key and value heads, and the width of each."""
    return {"n": encoder.num_heads, "k": encoder.key_value_heads, "h": encoder.head_dim}


def _translate(
    source: Path,
    modules: Sequence[Module],
    options: Options,
    temperature: Temperature,
    name: str,
    ignored: IgnoredWeights,
) -> tuple[Metadata, FlatWeights, str]:
    """Return the metadata, the weights and the tokenizer.json of an encoder and its modules, in tsjax's terms."""
    directory = modules[0].path if modules else source
    config_file = directory / "config.json"
    config = read_json_object(config_file)
    family = family_of(config, str(config_file))
    check_classes(modules, family.modules)
    ignore = options.ignore_config_fields
    encoder = family.translate(Fields(config, str(config_file), ignore))
    encoder = _strided(encoder, options.position_stride or 1, str(config_file))
    whole = open_tensors(directory)
    tensors = with_task(
        ignored.without(whole),
        source=source,
        config=config,
        family=family,
        encoder=encoder,
        task=options.adapter,
        ignore=ignore,
    )
    spelling = family.spelling(tensors.read)
    of_head = head_weights(config, whole.read)
    assumed: tuple[str, ...] = ()
    if _scores(source, modules, config, options.kind, bool(of_head - set(tensors.read))):
        if family.classifier is None:
            raise ConversionError(f"{config_file}: {family.name} has no classification head that tsjax knows")
        fields = Fields(config, str(config_file))
        classifier = family.classifier(encoder, fields, label_count(config, str(config_file)))
        stack = read_scorer(source, modules if len(modules) == 1 else (), classifier, config, ignore)
    else:
        tensors = dataclasses.replace(tensors, read={n: read for n, read in tensors.read.items() if n not in of_head})
        stack, assumed = _embedder_stack(source, modules, config, encoder.hidden_size, name, ignore)
    pooler = stack.kind == "embedder" and family.has_pooler(tensors.read, spelling)
    model = ModelConfig(encoder=encoder, pooling=stack.pooling, heads=tuple(head.config for head in stack.heads))

    tokenizer = read_tokenizer(directory, config, lower_case=stack.lower_case, chats=not modules, ignore=ignore)
    # The same rule as sentence-transformers: its own field, or else the smaller of the other two.
    others = [length for length in (tokenizer.model_max_length, encoder.made_for_length) if length is not None]
    said = stack.max_seq_length or min(others, default=_USUAL_LENGTH)
    try:
        longest = min(said, encoder.max_length or said)
        ids, token_types = _input(tokenizer, longest, encoder, pairs=stack.kind == "cross_encoder")
        metadata = Metadata(
            model=model,
            max_seq_length=longest,
            pad_token_id=_pad_token_id(config, encoder, tokenizer.pad_token_id),
            prompts=stack.prompts,
            default_prompt_name=stack.default_prompt_name,
            similarity_fn_name=stack.similarity_fn_name,
            truncate_dim=stack.truncate_dim,
            temperature=temperature,
            kind=stack.kind,
            activation=stack.activation,
            token_types=token_types,
            family=family.name,
            pooler=pooler,
            assumed=assumed,
            source=name.encode(errors="backslashreplace").decode(),
        )
    except (ConfigError, CheckpointError, InputError) as error:
        raise ConversionError(f"{source}: {error}") from error
    if ids > encoder.vocab_size:
        raise ConversionError(
            f"{directory}: the tokenizer gives ids up to {ids - 1}, but the embedding has {encoder.vocab_size} rows"
        )

    rules = [dataclasses.replace(rule, ours=f"encoder.{rule.ours}") for rule in spelling.rules(encoder)]
    rules += family.pooler_rules() if pooler else ()
    apart: dict[Path, list[Rule]] = {}
    for index, head in enumerate(stack.heads):
        if head.directory is not None:
            where = rules if stack.kind == "cross_encoder" else apart.setdefault(head.directory, [])
            where += [dataclasses.replace(rule, ours=f"heads.{index}.{rule.ours}") for rule in head.rules]
    shapes = weight_shapes(model) | kept_shapes(metadata)
    weights = _read(tensors, rules, spelling.names, encoder, shapes)
    for folder, head_rules in apart.items():
        weights |= _read(ignored.without(open_tensors(folder)), head_rules, Names(), encoder, shapes)
    if absent := set(shapes) - set(weights):
        raise ConversionError(f"{directory}: no rule gives weight {min(absent)!r} of the architecture")
    return metadata, weights, tokenizer.json


def _embedder_stack(
    source: Path, modules: Sequence[Module], config: Mapping[str, Any], width: int, name: str, ignore: Collection[str]
) -> tuple[Stack, tuple[str, ...]]:
    """Return the modules that follow the encoder of an embedder, and the assumptions made where no file states them."""
    if is_classifier(config) and len(modules) <= 1:
        assumed = (
            "it is a sequence classification model and nothing says how to pool: its head is left out and its tokens "
            "are averaged, as in sentence-transformers"
        )
        return Stack(), (assumed,)
    if not modules:
        return Stack(PoolingConfig(modes=("lasttoken",)) if is_causal(config) else PoolingConfig()), ()
    stack = read_stack(source, modules, width, ignore)
    if name in INSTRUCTORS:
        stack = dataclasses.replace(stack, pooling=dataclasses.replace(stack.pooling, include_prompt=False))
    return stack, ()


def _scores(
    source: Path, modules: Sequence[Module], config: Mapping[str, object], kind: Kind | None, head_is_ignored: bool
) -> bool:
    """Return whether a checkpoint becomes a cross-encoder.

    Raises:
        ConversionError: a cross-encoder was requested, and the checkpoint cannot become one.
    """
    classifier = is_classifier(config)
    if kind == "cross_encoder":
        if not classifier:
            raise ConversionError(
                f"{source} is not a sequence classification model, so that it gives vectors and no scores of pairs; "
                "load it with kind='embedder'"
            )
        if len(modules) > 1 and modules[0].path != source:
            raise ConversionError(f"{source} pools what its classifier would take; load {modules[0].path} instead")
        return True
    return kind is None and classifier and len(modules) <= 1 and not head_is_ignored


def _strided(encoder: EncoderConfig, stride: int, file: str) -> EncoderConfig:
    """Return an encoder whose short texts use every ``stride``-th row of the position table, as e5-base-4k's do."""
    if stride == 1:
        return encoder
    if not encoder.absolute_positions or encoder.max_positions is None or encoder.position_padding_id is not None:
        raise ConversionError(
            f"{file}: a position_stride of {stride} needs a table of positions that are counted from 0, which this "
            "model does not have; pass 1"
        )
    short = encoder.max_positions // stride
    if short == 0:
        raise ConversionError(f"{file}: a position_stride of {stride} is more than {encoder.max_positions} positions")
    return dataclasses.replace(encoder, position_stride=stride, position_stride_up_to=short)


def _read(
    tensors: Tensors,
    rules: Sequence[Rule],
    names: Names,
    encoder: EncoderConfig,
    shapes: Mapping[str, tuple[int, ...]],
) -> dict[str, NDArray[np.float32]]:
    """Read the weights that rules produce from a file; ``shapes`` may hold more weights than these."""
    table = expand(rules, encoder.num_layers)
    rows = match(tensors.read, table, names, tensors.where)
    check_copies(tensors.read, names, tensors.where)
    wanted = {row.ours: shapes[row.ours] for packed in table.values() for row in packed if row.ours in shapes}
    return apply(rows, lambda name: tensors.read[name](), wanted, axes(encoder), tensors.where)


def _input(tokenizer: TokenizerSource, max_length: int, encoder: EncoderConfig, *, pairs: bool) -> tuple[int, bool]:
    """Return one more than the highest id of the tokenizer, and whether the encoder receives segment ids.

    Raises:
        ConversionError: the tokenizer uses more segments than the encoder has.
        CheckpointError: the tokenizer cannot tokenise.
        InputError: ``max_length`` leaves no room for text.
    """
    reader = TextTokenizer(tokenizer.json, max_length)
    segment = (PairTokenizer(tokenizer.json, max_length) if pairs else reader).highest_segment
    used = tokenizer.token_types and encoder.type_vocab_size > 0 and segment > 0
    if used and segment >= encoder.type_vocab_size:
        raise ConversionError(
            f"the post-processor of the tokenizer gives segment {segment}, but the encoder's token-type embedding has "
            f"{encoder.type_vocab_size} rows"
        )
    return reader.vocab_size, used


def _pad_token_id(config: Mapping[str, object], encoder: EncoderConfig, of_tokenizer: int | None) -> int:
    """Return the id that fills up batches. Padding is masked, so any id is correct and an unusable one becomes 0."""
    for pad in (config.get("pad_token_id"), of_tokenizer, encoder.position_padding_id):
        if is_whole_number(pad, 0, encoder.vocab_size - 1):
            return pad
    return 0
