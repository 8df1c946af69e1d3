"""Calls of the public surface for the type checker, which test_calls.py runs on them; nothing here is executed.

A bad call has an ignore comment with the error that it must be: an ignore that is not needed is an error itself.
"""

from collections.abc import Iterator
from typing import assert_type

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

import tsjax
from tsjax.encoders.cross_encoder import RankedDocument
from tsjax.encoders.signatures import TextDetails

Floats = NDArray[np.float32]


def loading() -> None:
    assert_type(tsjax.load("m"), tsjax.Embedder | tsjax.RoutedEmbedder | tsjax.CrossEncoder)
    assert_type(tsjax.load("m", kind=None), tsjax.Embedder | tsjax.RoutedEmbedder | tsjax.CrossEncoder)
    assert_type(tsjax.load("m", kind="embedder"), tsjax.Embedder)
    assert_type(tsjax.load("m", kind="embedder", dtype=jnp.bfloat16, temperature=0.9), tsjax.Embedder)
    assert_type(tsjax.load("m", kind="cross_encoder", dtype="float16"), tsjax.CrossEncoder)
    tsjax.load("m", adapter="retrieval.query", token=True, cache_folder="folder", revision="main", device="cpu")
    tsjax.load("m", temprature=0.9)  # type: ignore[call-overload]
    tsjax.load("m", kind="reranker")  # type: ignore[call-overload]
    tsjax.load("m", task="retrieval.query")  # type: ignore[call-overload]
    tsjax.load("m", max_seq_length="long")  # type: ignore[call-overload]
    tsjax.load("m").encode("a")  # type: ignore[union-attr]


def embedding(text: str, texts: list[str]) -> None:
    assert_type(tsjax.embed(text), Floats)
    assert_type(tsjax.embed(texts, model="m", temperature=[0.9, 0.8]), Floats)
    assert_type(tsjax.embed(texts, precision="binary"), Floats | NDArray[np.int8] | NDArray[np.uint8])
    assert_type(tsjax.embed(texts, convert_to_tensor=True), jax.Array)
    tsjax.embed(texts, temprature=0.9)  # type: ignore[call-overload]
    tsjax.embed(texts, dtype="bfloat16")  # type: ignore[call-overload]
    tsjax.embed(3)  # type: ignore[call-overload]


def encoding(model: tsjax.Embedder | tsjax.RoutedEmbedder, text: str, texts: list[str], *, flag: bool) -> None:
    assert_type(model.encode(text), Floats)
    assert_type(model.encode(texts), Floats)
    assert_type(model.encode(iter(texts), "query", normalize_embeddings=True, truncate_dim=3, device="cpu"), Floats)
    assert_type(model.encode(texts, precision="int8"), NDArray[np.int8])
    assert_type(model.encode(texts, precision="ubinary"), NDArray[np.uint8])
    assert_type(model.encode(texts, convert_to_tensor=True), jax.Array)
    assert_type(model.encode(text, convert_to_numpy=False), jax.Array)
    assert_type(model.encode(texts, convert_to_numpy=False), list[jax.Array])
    assert_type(model.encode(text, output_value="token_embeddings"), Floats)
    assert_type(model.encode(texts, output_value="token_embeddings"), list[Floats])
    assert_type(model.encode(text, output_value=None), TextDetails)
    assert_type(model.encode(texts, output_value=None), list[TextDetails])
    assert_type(model.encode(text, output_value=None)["token_embeddings"], Floats)
    assert_type(model.encode_query(text, temperature=tsjax.Temperature(0.9)), Floats)
    assert_type(model.encode_query(texts, convert_to_tensor=True), jax.Array)
    assert_type(model.encode_document(texts, output_value="token_embeddings"), list[Floats])
    model.encode(texts, None, None, 32, False, "sentence_embedding", "float32", True, False, None, True, 7)
    model.encode(sentences=texts)
    model.encode(texts, convert_to_tensor=flag)
    model.encode(texts, normalize=True)  # type: ignore[call-overload]
    model.encode(texts, tempratur=0.9)  # type: ignore[call-overload]
    model.encode(texts, precision="int4")  # type: ignore[call-overload]
    model.encode(texts, output_value="token_embedding")  # type: ignore[call-overload]
    model.encode(3)  # type: ignore[call-overload]
    model.encode_query(text, tempratur=0.9)  # type: ignore[call-overload]
    model.encode_document(texts, promt="a")  # type: ignore[call-overload]


def streaming(model: tsjax.Embedder | tsjax.RoutedEmbedder, texts: list[str]) -> None:
    assert_type(model.stream(texts, block_size=3, task="query"), Iterator[Floats])
    quantized = model.stream(texts, precision="ubinary")
    assert_type(quantized, Iterator[Floats | NDArray[np.int8] | NDArray[np.uint8]])
    model.stream(texts, blocksize=3)  # type: ignore[call-overload]


def settings(model: tsjax.Embedder, vectors: Floats) -> None:
    assert_type(model.similarity(vectors, vectors), Floats)
    assert_type(model.temperature, tsjax.Temperature)
    assert_type(tsjax.quantize_embeddings(vectors, "binary"), NDArray[np.int8])
    model.save("folder")
    model.save("folder", overwrit=True)  # type: ignore[call-arg]
    assert_type(model.push_to_hub("me/model", private=True), str)
    model.temprature = 0.9  # type: ignore[attr-defined]


def scoring(model: tsjax.CrossEncoder, pairs: list[tuple[str, str]]) -> None:
    assert_type(model.predict(pairs), Floats)
    assert_type(model.predict([["a", "b"], ["c", "d"]]), Floats)
    assert_type(model.predict(("a", "b")), np.float32 | Floats)
    assert_type(model.predict(["a", "b"]), np.float32 | Floats)
    assert_type(model.predict(pairs, convert_to_tensor=True), jax.Array)
    assert_type(model.predict(pairs, convert_to_numpy=False), list[jax.Array])
    assert_type(model.rank("a", ["b", "c"], top_k=1, return_documents=True), list[RankedDocument])
    model.predict(pairs, activation="identity")  # type: ignore[call-overload]
    model.predict(pairs, activation_fn="nothing")  # type: ignore[call-overload]
    model.rank("a", ["b"], topk=1)  # type: ignore[call-arg]
