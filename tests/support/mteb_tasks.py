"""A retrieval task for MTEB that needs no network: from a query to the passage that it was cut from, or any other."""

import random

from tests.support.real_texts import addresses


def retrieval_task(queries, corpus, relevant, name="LocalRetrieval"):
    """Return an MTEB task from texts of queries and rows of documents by id, and the document of each query."""
    from datasets import Dataset
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata

    class LocalRetrieval(AbsTaskRetrieval):
        metadata = TaskMetadata(
            name=name,
            description="A task that is there already.",
            dataset={"path": "local", "revision": "1"},
            type="Retrieval",
            category="t2t",
            modalities=["text"],
            eval_splits=["test"],
            eval_langs=["eng-Latn"],
            main_score="ndcg_at_10",
        )

        def load_data(self, *_, **__):
            if self.data_loaded:
                return
            self.dataset = {
                "default": {
                    "test": {
                        "queries": Dataset.from_list([{"id": id_, "text": text} for id_, text in queries.items()]),
                        "corpus": Dataset.from_list([{"id": id_, **row} for id_, row in corpus.items()]),
                        "relevant_docs": {query: {document: 1} for query, document in relevant.items()},
                        "top_ranked": None,
                    }
                }
            }
            self.data_loaded = True

    return LocalRetrieval()


def passages(count=40, words=60, query_words=12, seed=0):
    """Return passages of addresses, each with a title, and for each a shuffled part of its words as its query."""
    rng = random.Random(seed)
    queries, corpus = {}, {}
    for i, address in enumerate(rng.sample(addresses(), count)):
        every = address.split()
        start = rng.randrange(len(every) - words)
        passage = every[start : start + words]
        corpus[f"d{i}"] = {"title": f"Address {i}", "text": " ".join(passage)}
        queries[f"q{i}"] = " ".join(rng.sample(passage, query_words))
    return queries, corpus, {f"q{i}": f"d{i}" for i in range(count)}
