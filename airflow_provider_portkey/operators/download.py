"""Download a batch's answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseOperator

from airflow_provider_portkey import files
from airflow_provider_portkey.exceptions import PortkeyApiError, PortkeyBatchNotReadyError, PortkeyRefusedError
from airflow_provider_portkey.hooks.portkey import PortkeyHook, read_file_stats
from airflow_provider_portkey.task import PortkeyTask, bad_end
from airflow_provider_portkey.text import message
from airflow_provider_portkey.verdict import batch_errors

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context, ObjectStoragePath

    from airflow_provider_portkey.files import AnyPath


class PortkeyDownloadBatchOperator(PortkeyTask, BaseOperator):
    """
    Download the answers of a batch that has ended, to local disk or to any object storage that Airflow supports.

    The files are ``output.jsonl``, with the answers to the requests that succeeded, and ``error.jsonl``, with those to
    the others. Each appears whole or not at all; another run replaces it. Memory stays flat, except for each request's
    ``custom_id``.

    The operator returns a manifest: ``batch_id``, ``status``, ``output`` and ``error`` (``None``, or a dict of
    ``file_id``, ``path``, ``bytes``, ``lines`` and ``sha256``), ``request_counts``, ``counts_match`` (whether the files
    have a line for each request; ``None`` if the batch has no counts), ``missing`` and ``duplicates`` (the first 100
    ``custom_id`` without a line, or with several), ``missing_count`` and ``duplicate_count``. ``missing`` is ``None``
    if it cannot be determined. Missing and duplicate answers are also logged as warnings.

    ``batch_id``, ``path`` and ``portkey_conn_id`` are templated. What it raises is listed in
    :mod:`airflow_provider_portkey.exceptions`, and ``OSError`` if a file cannot be written.

    .. seealso:: https://portkey.ai/docs/api-reference/inference-api/files/retrieve-file-content

    :param batch_id: the batch's id, plain or percent-encoded
    :param path: the folder, as a path or URL such as ``s3://aws_default@bucket/results/{{ run_id }}``
    :param portkey_conn_id: the id of the Airflow connection
    """

    template_fields: Sequence[str] = ("batch_id", "path", "portkey_conn_id")

    def __init__(
        self,
        *,
        batch_id: str,
        path: AnyPath,
        portkey_conn_id: str = PortkeyHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.batch_id = batch_id
        self.path = path
        self.portkey_conn_id = portkey_conn_id

    def execute(self, context: Context) -> dict[str, Any]:
        """Download the files, and check that they have an answer to each request."""
        folder = files.storage_path(self.path)
        batch = self.hook.get_batch(self.batch_id)
        if not batch.status.is_terminal:
            raise PortkeyBatchNotReadyError(
                message(
                    f"Batch is still {batch.status}: put a PortkeyBatchSensor before this task",
                    f"{batch}, so it has no results yet.",
                )
            )
        output = self._download(batch.output_file_id, folder / "output.jsonl")
        # Vertex sets error_file_id even if no request failed.
        none_failed = not batch.request_counts.failed
        error = self._download(batch.error_file_id, folder / "error.jsonl", may_be_missing=none_failed)
        if not output and not error:
            raise bad_end(
                batch,
                message(
                    f"Batch {batch.status} without a file to download: check its errors at the provider",
                    f"{batch}, and left no file to download.",
                    batch_errors(batch),
                ),
            )
        asked = None
        if batch.input_file_id and not files.is_complete(batch, output, error):
            try:
                asked = read_file_stats(self.hook, batch.input_file_id).custom_ids
            except PortkeyApiError as failure:
                self.log.warning("Which requests are missing cannot be determined: %s", failure)
        manifest = files.manifest(batch, output, error, asked)
        self._warn("requests have no answer", manifest["missing_count"], manifest["missing"])
        self._warn("requests have more than one answer", manifest["duplicate_count"], manifest["duplicates"])
        return manifest

    def _warn(self, problem: str, count: int | None, names: list[str] | None) -> None:
        if count and names:
            self.log.warning("%d %s, among them %s.", count, problem, ", ".join(names[:10]))

    def _download(
        self, file_id: str | None, path: ObjectStoragePath, *, may_be_missing: bool = False
    ) -> files.Download | None:
        download = None
        if file_id:
            try:
                download = self.hook.download_file(file_id, path)
            except PortkeyRefusedError as error:
                if not (may_be_missing and error.status_code == 404):
                    raise
                self.log.info("File %s does not exist; no request failed.", file_id)
        if download:
            self.log.info("%s: %s lines, %s bytes.", path, f"{download.stats.lines:,}", f"{download.stats.bytes:,}")
        elif path.exists():  # of a previous run
            path.unlink()
        return download
