"""
Drives the Bedrock shim with botocore, as an independent client, and checks its responses against the service model.

It is a script for the environment of ``emulators.txt``: its arguments are the shim's URL and what a job is created
with, as JSON. It prints as JSON what the responses have that the model does not allow, and the statuses that it saw.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from typing import Any

import botocore.session
from botocore.exceptions import ClientError
from botocore.model import ListShape, Shape, StringShape, StructureShape

_TYPES: dict[str, tuple[type, ...]] = {"string": (str,), "timestamp": (str,), "integer": (int,), "long": (int,)}


def problems(shape: Shape, value: Any, where: str) -> Iterator[str]:
    """Find what a decoded JSON value has that its shape does not allow."""
    if isinstance(shape, StructureShape):
        missing = set(shape.required_members) - value.keys()
        unknown = value.keys() - shape.members.keys()
        yield from (f"{where}: {name} is missing" for name in missing)
        yield from (f"{where}: {name} is unknown" for name in unknown)
        for name in value.keys() & shape.members.keys():
            yield from problems(shape.members[name], value[name], f"{where}.{name}")
    elif isinstance(shape, ListShape):
        for item in value:
            yield from problems(shape.member, item, f"{where}[]")
    elif not isinstance(value, _TYPES[shape.type_name]):
        yield f"{where}: {value!r} is not a {shape.type_name}"
    elif isinstance(shape, StringShape) and shape.enum and value not in shape.enum:
        yield f"{where}: {value!r} is not one of {shape.enum}"
    elif "pattern" in shape.metadata and not re.fullmatch(str(shape.metadata["pattern"]), str(value)):
        yield f"{where}: {value!r} does not match {shape.metadata['pattern']}"


def main(url: str, creation: str) -> None:
    """Create a job, wait for it, list it; create another one and stop it."""
    session = botocore.session.get_session()
    session.set_credentials("AKIAIOSFODNN7EXAMPLE", "not-a-secret-EXAMPLE")
    client = session.create_client("bedrock", region_name="us-east-1", endpoint_url=url)
    found: list[str] = []

    def check(http_response: Any, model: Any, **_: Any) -> None:
        if http_response.status_code < 300:
            found.extend(problems(model.output_shape, json.loads(http_response.content), model.name))

    client.meta.events.register("after-call.bedrock", check)

    statuses: list[str] = []
    arn = client.create_model_invocation_job(**json.loads(creation))["jobArn"]
    while not statuses or statuses[-1] in ("Submitted", "InProgress"):
        statuses.append(client.get_model_invocation_job(jobIdentifier=arn)["status"])
    listed = client.list_model_invocation_jobs(maxResults=1)["invocationJobSummaries"]
    statuses.append(f"listed {listed[0]['status']}")
    arn = client.create_model_invocation_job(**json.loads(creation))["jobArn"]
    client.stop_model_invocation_job(jobIdentifier=arn)
    while statuses[-1] != "Stopped":
        statuses.append(client.get_model_invocation_job(jobIdentifier=arn)["status"])
    for call in (client.stop_model_invocation_job, client.get_model_invocation_job):
        try:
            call(jobIdentifier=arn if call == client.stop_model_invocation_job else f"{arn[:-1]}x")
        except ClientError as error:
            statuses.append(error.response["Error"]["Code"])
    print(json.dumps({"problems": found, "statuses": statuses}))


if __name__ == "__main__":
    main(*sys.argv[1:])
