"""
What a task read and wrote, for OpenLineage: a batch, and the files on either side of it.

OpenLineage calls the methods; without it nothing of it is imported. Without these methods it would report every path
that was opened: the hidden file that a download writes first, and the temporary file that is uploaded.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

#: The namespace of batches, which connect the task that creates one with the task that downloads it.
NAMESPACE = "portkey"


@dataclass(frozen=True)
class LineageFile:
    """
    A file that a task read or wrote.

    :param path: an absolute path or a URL of Airflow's object storage
    :param rows: how many lines it has, ``None`` if that is not known
    :param size: how many bytes it has, ``None`` if that is not known
    """

    path: str
    rows: int | None = None
    size: int | None = None

    @property
    def statistics(self) -> dict[str, Any]:
        """The file's figures, by the names that OpenLineage has for them."""
        return {"rowCount": self.rows, "size": self.size}


@dataclass(frozen=True)
class Lineage:
    """
    What a task read and wrote.

    :param read: the files that were read
    :param written: the files that were written
    :param created: the id of the batch that the task created; empty if there is none
    :param downloaded: the id of the batch that the task downloaded; empty if there is none
    """

    read: list[LineageFile] = field(default_factory=list)
    written: list[LineageFile] = field(default_factory=list)
    created: str = ""
    downloaded: str = ""

    def to_openlineage(self) -> Any:
        """Return an ``OperatorLineage``."""
        from airflow.providers.openlineage.extractors import OperatorLineage
        from openlineage.client.event_v2 import InputDataset, OutputDataset
        from openlineage.client.facet_v2 import (
            external_query_run,
            input_statistics_input_dataset,
            output_statistics_output_dataset,
        )

        read = input_statistics_input_dataset.InputStatisticsInputDatasetFacet
        written = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet
        inputs = [
            InputDataset(*_address(file.path), inputFacets={"inputStatistics": read(**file.statistics)})
            for file in self.read
        ]
        outputs = [
            OutputDataset(*_address(file.path), outputFacets={"outputStatistics": written(**file.statistics)})
            for file in self.written
        ]
        if self.downloaded:
            inputs.append(InputDataset(NAMESPACE, f"batches/{self.downloaded}"))
        if self.created:
            outputs.append(OutputDataset(NAMESPACE, f"batches/{self.created}"))
        batch_id = self.created or self.downloaded
        facet = external_query_run.ExternalQueryRunFacet(externalQueryId=batch_id, source=NAMESPACE)
        return OperatorLineage(inputs=inputs, outputs=outputs, run_facets={"externalQuery": facet} if batch_id else {})


class WithLineage:
    """Answers OpenLineage for an operator. Its task's state is on the operator when OpenLineage asks, after the end."""

    def lineage(self) -> Lineage:
        """Return what the task read and wrote so far."""
        raise NotImplementedError

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        """Return what the task read and wrote."""
        return self.lineage().to_openlineage()

    def get_openlineage_facets_on_failure(self, task_instance: Any) -> Any:
        """Return what the task read and wrote before it failed."""
        return self.lineage().to_openlineage()


def _address(path: str) -> tuple[str, str]:
    """Return namespace and name as OpenLineage's naming convention has them, without an Airflow connection's id."""
    scheme, _, rest = path.partition("://") if "://" in path else ("file", "", path)
    if scheme == "file":
        return "file", rest
    bucket, _, name = rest.partition("/")
    return f"{scheme}://{bucket.rpartition('@')[2]}", name
