"""Saving of encoders as a tsjax checkpoint directory or a repository on the hub.

The directory holds the checkpoint's weights in float32 and the present settings, so that a model loaded from it returns
the same vectors, for every temperature. `tsjax.hub.export_to` writes the format of sentence-transformers instead.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tsjax.errors import OutputError
from tsjax.storage.atomic import expanded

if TYPE_CHECKING:
    import os


class Saving:
    """Base of `Embedder`, `RoutedEmbedder` and `CrossEncoder`: saving, and pushing to the hub."""

    def save(self, directory: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write a checkpoint directory with the present settings, which `tsjax.load` reads.

        Temperature, ``max_seq_length``, prompts, ``truncate_dim``, the similarity and a cross-encoder's activation are
        saved as they are now. The dtype and the devices are not saved: they are chosen where a model is loaded. The
        format is that of `tsjax convert`; `tsjax export` writes a directory that sentence-transformers reads.

        Args:
            directory: the directory to make; it appears complete or not at all.
            overwrite: replace an existing tsjax checkpoint. Anything else is never replaced.

        Raises:
            OutputError: the directory exists, cannot be written, or is the one that this model was loaded from.
            CheckpointError: the directory that this model was loaded from was removed or damaged.
            InputError: the activation is a function, which a checkpoint cannot hold.
        """
        destination, source = expanded(directory), self._source()
        if destination.exists() and source.exists() and destination.samefile(source):
            raise OutputError(f"{destination} is what this model was loaded from; choose another name")
        self._write(destination, overwrite=overwrite)

    def push_to_hub(
        self,
        repo_id: str,
        token: str | bool | None = None,
        private: bool | None = None,
        *,
        commit_message: str | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        exist_ok: bool = False,
    ) -> str:
        """Upload the directory that `save` writes to a repository on the Hugging Face hub, for ``tsjax.load(repo_id)``.

        Args:
            repo_id: ``owner/name``.
            token: access token of a user with write permission; None for the one that ``hf auth login`` stored.
            private: whether a new repository is private; None for the owner's default.
            commit_message: None for a default message.
            revision: branch to write to, created if necessary; None for the main branch.
            create_pr: open a pull request instead.
            exist_ok: write to a repository that already exists.

        Returns:
            the URL of the commit, or of the pull request.

        Raises:
            OutputError: the hub refuses or cannot be reached; or as for `save`.
            InputError, CheckpointError: as for `save`.
        """
        from huggingface_hub import HfApi  # noqa: PLC0415  # which embedding does not need

        with tempfile.TemporaryDirectory(prefix="tsjax-") as folder:
            directory = Path(folder) / "model"
            self.save(directory)
            try:
                api = HfApi(token=token)
                name = api.create_repo(repo_id, private=private, exist_ok=exist_ok or create_pr).repo_id
                if revision is not None:
                    api.create_branch(name, branch=revision, exist_ok=True)
                commit = api.upload_folder(
                    repo_id=name,
                    folder_path=directory,
                    commit_message=commit_message or f"Add a tsjax {type(self).__name__}",
                    revision=revision,
                    create_pr=create_pr,
                )
            except Exception as error:  # the hub's client raises its own errors, httpx's, and the operating system's
                raise OutputError(f"{repo_id} cannot be written on the hub: {error}") from error
        return str(commit.pr_url if create_pr else commit.commit_url)

    def _source(self) -> Path:
        """Return the directory that the model was loaded from."""
        raise NotImplementedError

    def _write(self, destination: Path, *, overwrite: bool) -> None:
        """Write a checkpoint directory with the present settings."""
        raise NotImplementedError
