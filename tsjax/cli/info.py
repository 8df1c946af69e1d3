"""``tsjax info``: describe a model."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tsjax.cli.options import add_kind_option, add_source_options, source
from tsjax.encoders.prompts import ALWAYS, merged, unused
from tsjax.errors import InputError
from tsjax.wording import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tsjax.checkpoints.format import Header, Metadata
    from tsjax.checkpoints.routed import RoutedHeader


def run(options: argparse.Namespace) -> None:
    if options.families and options.model is not None:
        raise InputError("--families lists all families; leave the model out")
    if options.families:
        _print_families(as_json=options.json)
        return
    from tsjax.checkpoints.format import read_header, verify_files
    from tsjax.checkpoints.routed import is_routed, read_routed_header
    from tsjax.hub import resolve

    path = resolve(options.model, **source(options), kind=options.kind)
    routed = read_routed_header(path) if is_routed(path) else None
    headers = [read_header(path)] if routed is None else list(routed.headers.values())
    for header in headers:
        verify_files(header)
    if options.json:
        content = _content(headers[0]) if routed is None else _routed_content(routed)
        print(json.dumps(content, indent=2, ensure_ascii=False))
        return
    rows = [] if routed is None else list(_describe_routed(routed))
    for header in headers:
        rows += _describe(header)
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")


def _content(header: Header) -> dict[str, Any]:
    from tsjax.checkpoints.format import parameter_count

    metadata = header.metadata
    prompts = merged(metadata.prompts, {}, () if metadata.kind == "cross_encoder" else ALWAYS)
    return {
        **metadata.to_json(),
        "unused_prompts": list(unused(prompts, metadata.default_prompt_name)),
        "parameters": parameter_count(header),
        "checkpoint_fingerprint": header.fingerprint,
    }


def _routed_content(routed: RoutedHeader) -> dict[str, Any]:
    folders = {folder: _content(header) for folder, header in routed.headers.items()}
    config = dataclasses.asdict(routed.config)
    return {"router": config, "folders": folders, "checkpoint_fingerprint": routed.fingerprint}


def _describe_routed(routed: RoutedHeader) -> Iterator[tuple[str, str]]:
    """Yield the route of each task; the content of each folder follows."""
    config = routed.config
    for task, route in config.tasks.items():
        yield f"task {task!r}", f"route {route!r}, in {config.routes[route]}"
    yield "other tasks", "an error" if config.other_tasks is None else f"route {config.other_tasks!r}"
    yield "without a task", "an error" if config.default_route is None else f"route {config.default_route!r}"
    yield "all routes", f"{routed.fingerprint} (the checkpoint fingerprint of them together)"


def _describe(header: Header) -> Iterator[tuple[str, str]]:
    from tsjax.checkpoints.format import parameter_count

    metadata, encoder = header.metadata, header.metadata.model.encoder
    yield "model", metadata.source
    yield "family", metadata.family + (", a cross-encoder" if metadata.kind == "cross_encoder" else "")
    yield "directory", str(header.path)
    yield (
        "architecture",
        f"{counted(encoder.num_layers, 'layer')}, {encoder.hidden_size} wide, {counted(encoder.num_heads, 'head')} of "
        f"{encoder.head_dim}, "
        f"feed-forward {encoder.intermediate_size} ({encoder.activation}), {encoder.norm_placement}-norm, "
        f"{encoder.positions} positions",
    )
    yield "parameters", f"{parameter_count(header):,}"
    yield "vocabulary", f"{encoder.vocab_size:,} tokens"
    allowed = f"{encoder.max_length}" if encoder.max_length else "any; set it with max_seq_length"
    yield "longest text", f"{metadata.max_seq_length} tokens (the positions allow {allowed})"
    pooling = metadata.model.pooling
    yield "pooling", " + ".join(pooling.modes) + ("" if pooling.include_prompt else ", without the prompt")
    for head in metadata.model.heads:
        widths = f" {head.in_features} → {head.out_features}, {head.activation}" if head.kind == "dense" else ""
        yield "then", head.kind + widths
    if metadata.kind == "cross_encoder":
        yield "scores", f"{metadata.model.embedding_dimension} a pair, {metadata.activation}"
    else:
        yield "dimensions", str(metadata.truncate_dim or metadata.model.embedding_dimension)
        yield "similarity", metadata.similarity_fn_name
    yield from _describe_prompts(metadata)
    for sentence in metadata.assumed:
        yield "assumed", sentence
    yield "temperature", str(metadata.temperature)
    yield "checkpoint fingerprint", f"{header.fingerprint} (files verified)"


def _describe_prompts(metadata: Metadata) -> Iterator[tuple[str, str]]:
    """Yield each prompt, and the method that uses it."""
    default = metadata.default_prompt_name
    if metadata.kind == "cross_encoder":
        prompts = merged(metadata.prompts, {})
        used = {default: ["predict"]}
    else:
        prompts = merged(metadata.prompts, {}, ALWAYS)
        used = {name: [f"encode_{name}"] for name in ALWAYS}
        used[default] = ["encode", *used.get(default, [])]
    for name, prompt in prompts.items():
        by = ", ".join(used.get(name, [])) or f"no method unless asked for: prompt_name={name!r}, --prompt-name {name}"
        if prompt or name in metadata.prompts:
            yield f"prompt {name!r}", f"{prompt!r} (used by {by})"
    if not any(prompts.values()):
        yield "prompts", "none"


def add(commands: Any) -> None:
    command = commands.add_parser(
        "info",
        help="what a model is",
        description="Architecture, sizes, pooling, prompts, temperature and checkpoint fingerprint of a model; checks "
        "its files.",
        epilog="example: tsjax info all-MiniLM-L6-v2",
    )
    command.set_defaults(command=run)
    command.add_argument("model", metavar="MODEL", nargs="?", help="hub name or directory (default: all-MiniLM-L6-v2)")
    command.add_argument("--families", action="store_true", help="the families that can be converted, and their parity")
    command.add_argument("--json", action="store_true", help="as JSON")
    add_source_options(command)
    add_kind_option(command)


def _print_families(*, as_json: bool) -> None:
    """Print the table that scripts/verify/parity.py measured: the worst of three temperatures in each column."""
    content = json.loads((Path(__file__).parent.parent / "parity.json").read_text(encoding="utf-8"))
    if as_json:
        print(json.dumps(content, indent=2, ensure_ascii=False))
        return
    print(f"{'family':24} {'hidden states':>13} {'vectors':>8} {'logits':>8} {'bfloat16':>8}  for example")
    for one in content["families"]:
        states, vectors = max(one["states"].values()), max(one["vectors"].values())
        logits = f"{max(one['logits'].values()):.1e}" if one["logits"] else ""
        print(f"{one['family']:24} {states:13.1e} {vectors:8.1e} {logits:>8} {one['bfloat16']:8.5f}  {one['example']}")
    versions = ", ".join(f"{name} {version}" for name, version in content["versions"].items())
    print(f"\ngreatest differences from PyTorch at τ = 1, 0.8 and 0.5, measured {content['measured']} with {versions}")
