"""Download a batch's answers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, get_args

from airflow.providers.common.compat.sdk import BaseOperator

from airflow_provider_portkey.batch import Batch, BatchId, BatchStatus, is_same_id
from airflow_provider_portkey.calls import is_folder, output_file
from airflow_provider_portkey.exceptions import (
    PortkeyApiError,
    PortkeyBatchNotReadyError,
    PortkeyError,
    PortkeyInputError,
    PortkeyRefusedError,
    PortkeyTransientError,
)
from airflow_provider_portkey.files import as_template, atomic_write, storage_path
from airflow_provider_portkey.hooks.portkey import PortkeyHook, download_rows, read_file_stats
from airflow_provider_portkey.http import MAX_RESPONSE_BYTES
from airflow_provider_portkey.lineage import Lineage, LineageFile, WithLineage
from airflow_provider_portkey.manifest import Download, Source, manifest
from airflow_provider_portkey.task import PortkeyTask, bad_end
from airflow_provider_portkey.text import counted, decode_json, message, shorten
from airflow_provider_portkey.verdict import batch_errors

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context, ObjectStoragePath

    from airflow_provider_portkey.files import AnyPath
    from airflow_provider_portkey.wait import Log

DownloadSource = Literal["auto", "files", "output"]


class PortkeyDownloadBatchOperator(WithLineage, PortkeyTask, BaseOperator):
    """
    Download the answers of a batch that has ended, to local disk or to any object storage that Airflow supports.

    The files are ``output.jsonl``, with the answers, and ``error.jsonl``, with the requests that failed, where the
    provider has a file of its own for them. Each appears whole or not at all. Memory stays flat, except for each
    request's ``custom_id``. :func:`~airflow_provider_portkey.answers.read_answers` reads them, whichever provider wrote
    them.

    ``manifest.json`` beside them says which batch they are of. A batch replaces its own files, and a task instance
    those of its earlier attempts. The files of any other batch are not replaced: the task fails before it downloads.

    The operator returns a manifest, which is also in that file:

    - ``batch_id``, ``status``, ``request_counts``: of the batch
    - ``source``: ``"files"`` or ``"output"``, where the answers came from
    - ``output``, ``error``: ``None``, or a dict of ``file_id``, ``path``, ``bytes``, ``lines`` and ``sha256``
    - ``answered``, ``failed``: how many rows are answers, and how many are errors or cannot be read
    - ``unknown``: how many rows name no request of this batch
    - ``missing``, ``missing_count``: the first 100 ``custom_id`` without a row, and how many there are; ``None`` if the
      batch's input cannot be read
    - ``duplicates``, ``duplicate_count``: the same of those with several rows
    - ``usage``: for each model that answered, the number of ``requests``, and their ``input_tokens``,
      ``output_tokens``, ``cached_tokens`` and ``reasoning_tokens``, each ``None`` if an answer does not report it
    - ``errors``: the ten commonest errors, with ``code``, ``message`` without ids and numbers, and ``count``
    - ``counts_match``: whether there is one row for each request of the batch; ``None`` if the batch has no counts, or
      its input cannot be read

    What is missing, duplicate, unknown or unreadable is also logged as a warning.

    ``batch_id``, ``path``, ``portkey_conn_id`` and ``headers`` are templated. What it raises is listed in
    :mod:`airflow_provider_portkey.exceptions`, and ``OSError`` if a file cannot be written.

    .. seealso:: https://portkey.ai/docs/product/ai-gateway/batches

    :param batch_id: the batch's id, plain or percent-encoded, or the batch's dict as an operator returns it
    :param path: the folder, as a path or URL such as ``s3://aws_default@bucket/results/{{ run_id }}``
    :param source: where to take the answers from: the provider's ``"files"``, exact to the byte; the ``"output"`` that
        Portkey makes of them, the only way for some providers; or ``"auto"``: files where the batch has them
    :param portkey_conn_id: the id of the Airflow connection
    :param headers: headers to send in addition to the connection's, or instead of those of the same names: bucket,
        region, model, ... They may not hold credentials, which belong on the connection
    """

    template_fields: Sequence[str] = ("batch_id", "path", "portkey_conn_id", "headers")

    def __init__(
        self,
        *,
        batch_id: BatchId,
        path: AnyPath,
        source: DownloadSource = "auto",
        portkey_conn_id: str = PortkeyHook.default_conn_name,
        headers: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.batch_id = batch_id
        self._lineage = Lineage()
        self.path = as_template(path)
        self.source = source
        self._init_connection(portkey_conn_id, headers)
        if source not in get_args(DownloadSource):
            raise ValueError(f"source must be one of {', '.join(get_args(DownloadSource))}; got {source!r}")

    def execute(self, context: Context) -> dict[str, Any]:
        """Download the files, and check that they have a row for each request."""
        folder = storage_path(self.path)
        owned = _OwnedFolder(folder, self.batch_id, context.get("ti"), self.log)
        owned.check()
        batch = self.hook.get_batch(self.batch_id)
        self._lineage = Lineage(downloaded=batch.id)
        if not batch.status.is_terminal:
            raise PortkeyBatchNotReadyError(
                message(
                    f"Batch is still {batch.status}: put a PortkeyBatchSensor before this task",
                    f"{batch}, so it has no results yet.",
                )
            )
        owned.claim()
        try:
            manifest = self._download(batch, folder)
        except BaseException:
            owned.release()
            raise
        self._report(manifest)
        owned.write(manifest)
        return manifest

    def _download(self, batch: Batch, folder: ObjectStoragePath) -> dict[str, Any]:
        """Download what there is of a batch that has ended; return the manifest."""
        source, output = self._download_answers(batch, folder / "output.jsonl")
        error = self._download_errors(batch, source, output, folder / "error.jsonl")
        if not output and not error:
            raise bad_end(
                batch,
                message(
                    f"Batch {batch.status} without answers to download: check its errors at the provider",
                    f"{batch}, and left no file to download.",
                    batch_errors(batch),
                ),
            )
        for name, download in (("output.jsonl", output), ("error.jsonl", error)):
            if download is None:
                self._remove_stale(folder / name)
        return manifest(batch, source, {"output": output, "error": error}, self._asked(batch))

    def _remove_stale(self, path: ObjectStoragePath) -> None:
        """Remove a file of a previous run, which would be taken for one of this batch."""
        try:
            if path.exists():
                path.fs.rm_file(path.path)
        except OSError as error:
            self.log.warning("Cannot remove %s, which a previous run may have left. %s", path, error)

    def _download_answers(self, batch: Batch, path: ObjectStoragePath) -> tuple[Source, Download | None]:
        """Download the answers from where this batch has them."""
        file_id = output_file(batch)
        if batch.status is BatchStatus.FAILED and (file_id is None or file_id != batch.output_file_id):
            return "files", None  # Bedrock and Vertex name a folder from the start, whatever becomes of the batch
        if file_id is None or self.source == "output":
            return self._download_output(batch, path)
        has_answers = batch.status is BatchStatus.COMPLETED and batch.request_counts.completed != 0
        try:
            return "files", self._log_download(download_rows(self.hook, file_id, path, may_be_empty=not has_answers))
        except PortkeyApiError as error:
            # Cohere names a data set, which is no file of Portkey's. Bedrock's file may be elsewhere.
            if self.source != "auto" or not (error.status_code in (400, 404) or "NoSuchKey" in str(error)):
                raise
            self.log.warning("No file %s, using the batch's output instead. %s", file_id, error)
            try:
                return "output", self._log_download(self.hook.download_output(batch, path))
            except PortkeyTransientError:
                raise
            except PortkeyError as failure:
                self.log.info("The batch's output cannot be had either. %s", failure)
            raise

    def _download_output(self, batch: Batch, path: ObjectStoragePath) -> tuple[Source, Download | None]:
        """Download the answers of a batch without a file, if it can have any."""
        if self.source == "output":
            return "output", self._log_download(self.hook.download_output(batch, path))
        error_file_id, completed = batch.error_file_id, batch.request_counts.completed
        # All requests of a batch may have failed: then it has a file of errors alone.
        only_errors = not completed and error_file_id is not None and not is_folder(error_file_id)
        expected = batch.output_file_id is not None or (batch.status is BatchStatus.COMPLETED and not only_errors)
        text = "Batch completed without an output file, which may follow: retry later"
        if self.source == "files" and batch.lacks_output:
            raise PortkeyTransientError(message(text, f"{batch}."))
        if self.source == "files" or not expected:
            return "files", None
        try:
            return "output", self._log_download(self.hook.download_output(batch, path))
        except (PortkeyRefusedError, PortkeyInputError) as error:
            refused = isinstance(error, PortkeyRefusedError) and error.status_code not in (400, 404)
            if refused or batch.output_file_id is not None:
                raise
            raise PortkeyTransientError(message(text, f"{batch}.", str(error))) from error

    def _download_errors(
        self, batch: Batch, source: Source, output: Download | None, path: ObjectStoragePath
    ) -> Download | None:
        """Download the file of requests that failed, if the batch has one of its own."""
        file_id = batch.error_file_id
        if file_id is None or is_folder(file_id) or file_id == batch.output_file_id:
            return None
        if source == "output" and batch.output_file_id is None:
            return None  # Azure's output is the error file then
        try:
            return self._log_download(download_rows(self.hook, file_id, path, may_be_empty=True))
        except PortkeyRefusedError as error:
            # Some providers always name one. Where rows are missing in fact, the manifest says so.
            missing = error.status_code == 404 and error.origin != "gateway"
            if not missing or (batch.request_counts.failed and not output):
                raise
            self.log.warning("Error file %s does not exist. %s", file_id, error)
            return None

    def lineage(self) -> Lineage:
        """Return the batch, and the files that were downloaded so far."""
        return self._lineage

    def _log_download(self, download: Download) -> Download:
        stats = download.stats
        self._lineage.written.append(LineageFile(download.path, stats.lines, stats.bytes))
        self.log.info("%s: %s, %s.", download.path, counted(stats.lines, "line"), counted(stats.bytes, "byte"))
        if stats.unreadable:
            unreadable = counted(stats.unreadable, "line")
            self.log.warning("%s in %s cannot be read as an answer.", unreadable, download.path)
        return download

    def _asked(self, batch: Batch) -> set[str] | None:
        """Return the ids of the batch's requests, ``None`` if its input cannot be read."""
        reason: object = "the batch does not name its input file"
        if batch.id.startswith("pk_batch_"):
            reason = "guardrails of Portkey's own batches may have changed the input file"
        elif batch.input_file_id:
            try:
                stats = read_file_stats(self.hook, batch.input_file_id)
            except PortkeyApiError as error:
                reason = error
            else:
                if stats.custom_ids and not stats.anonymous:
                    return stats.custom_ids
                reason = "its input file does not name its requests"
        self.log.warning("Which requests are missing cannot be determined: %s", reason)
        return None

    def _report(self, manifest: dict[str, Any]) -> None:
        if names := manifest["missing"]:
            count = counted(manifest["missing_count"], "request")
            self.log.warning("%s without an answer: %s.", count, ", ".join([*names[:10], "…"][: len(names)]))
        if names := manifest["duplicates"]:
            count = counted(manifest["duplicate_count"], "request")
            self.log.warning("%s with more than one answer: %s.", count, ", ".join([*names[:10], "…"][: len(names)]))
        if manifest["unknown"]:
            self.log.warning("%s without a request of this batch.", counted(manifest["unknown"], "row"))
        if errors := manifest["errors"]:
            count, code, text = (errors[0][name] for name in ("count", "code", "message"))
            rows, more = counted(manifest["failed"], "row"), len(errors) - 1
            others = f" The manifest has {counted(more, 'further kind')} of errors." if more else ""
            self.log.warning("%s failed, the most (%d) with %s: %s.%s", rows, count, code, text.rstrip("."), others)


class _OwnedFolder:
    """
    A folder with the files of one batch, whose ``manifest.json`` says which.

    It is written before the files, so that two tasks with one folder notice each other, and again after them. Object
    stores have no locks, and two tasks may begin in the same moment: so it is read once more before the task ends.
    """

    def __init__(self, path: ObjectStoragePath, batch_id: str, ti: Any, log: Log) -> None:
        self._file = path / "manifest.json"
        names = ("dag_id", "task_id", "run_id", "map_index")
        task = {name: getattr(ti, name) for name in names} if hasattr(ti, "dag_id") else None
        self._batch_id, self._task = batch_id, task
        self._log = log
        self._may_read = True
        self._claimed = False

    def check(
        self, first_line: str = "The folder has the files of another batch: give each batch a path of its own"
    ) -> bool:
        """
        Return whether the folder is this task's; ``False`` if it is nobody's, or this cannot be determined.

        :param first_line: that of the error
        :raises PortkeyInputError: if it is another batch's
        """
        owner = self._read()
        if owner is None:
            return False
        batch_id, task = owner.get("batch_id"), owner.get("task")
        same_batch = isinstance(batch_id, str) and is_same_id(batch_id, self._batch_id)
        if same_batch or (task is not None and task == self._task):
            return True
        raise PortkeyInputError(
            message(
                first_line,
                f"According to {self._file} the files are of batch {shorten(str(batch_id))} (task {task}); "
                f"this task has batch {self._batch_id}.",
                "Put {{ run_id }}, and {{ ti.map_index }} in a mapped task, into path. To replace the files, delete "
                "that manifest.",
            )
        )

    def claim(self) -> None:
        """Let the folder be this batch's."""
        if not self.check():
            self._claimed = self._write({"batch_id": self._batch_id, "task": self._task})
            self.check()

    def write(self, manifest: dict[str, Any]) -> None:
        """Write the manifest, with the task that it is of."""
        self.check("Another batch was downloaded to this folder too: give each batch a path of its own")
        self._write({**manifest, "task": self._task})

    def release(self) -> None:
        """Let the folder be nobody's again, after a failure."""
        if self._claimed:
            with suppress(Exception):
                self._file.fs.rm_file(self._file.path)

    def _read(self) -> Mapping[str, Any] | None:
        if not self._may_read:
            return None
        try:
            with self._file.open("rb") as file:  # type: ignore[no-untyped-call]
                found = decode_json(file.read(MAX_RESPONSE_BYTES))
        except FileNotFoundError:
            return None
        except OSError as error:  # of a role that may only write, for one
            self._may_read = False
            text = "Cannot read %s: the files of another batch, if there are any, are replaced. %s"
            self._log.warning(text, self._file, error)
            return None
        return found if isinstance(found, Mapping) else {}

    def _write(self, content: Mapping[str, Any]) -> bool:
        try:
            with atomic_write(self._file) as file:
                file.write(json.dumps(content, indent=2).encode() + b"\n")
        except Exception as error:  # noqa: BLE001 - the answers matter more
            self._log.warning("Cannot write %s: another batch may replace these files. %s", self._file, error)
            return False
        return True
