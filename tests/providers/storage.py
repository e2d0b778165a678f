"""The object stores behind the gateway: emulators of Amazon S3 and Google Cloud Storage, as one process on loopback."""

from __future__ import annotations

import fcntl
import json
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import requests

CACHE = Path(__file__).resolve().parents[2] / ".cache"
FOLDER = CACHE / "emulators"
REQUIREMENTS = Path(__file__).with_name("emulators.txt")
S3FS = Path(__file__).with_name("s3fs.txt")
SCRIPT = Path(__file__).with_name("emulators.py")
TIMEOUT = 30
#: moto checks no signature, but refuses objects to who sends none.
SIGNED = {
    "Authorization": "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20260101/us-east-1/s3/aws4_request, "
    "SignedHeaders=host, Signature=0"
}
IAM = {"Authorization": SIGNED["Authorization"].replace("/s3/", "/iam/")}
PUT_ONLY = """{
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Action": "s3:PutObject", "Resource": "*"}]
}"""


def install(folder: Path = FOLDER) -> Path:
    """Install the emulators into an environment of their own unless it is there, and return its Python."""
    python = folder / "bin" / "python"
    with _preparing(folder, REQUIREMENTS) as needed:
        if needed:
            venv.create(folder, with_pip=True)
            _pip(str(python), REQUIREMENTS)
    return python


def install_s3fs(folder: Path = CACHE / "s3fs") -> Path:
    """Install s3fs into a folder to be imported from unless it is there, and return the folder."""
    with _preparing(folder, S3FS) as needed:
        if needed:
            _pip(sys.executable, S3FS, "--target", str(folder))
    return folder


@contextmanager
def _preparing(folder: Path, requirements: Path) -> Iterator[bool]:
    """Yield whether a folder has to be filled, which it then is."""
    stamp, pins = folder / "installed.txt", requirements.read_text()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # Several processes of one test run may install them at once.
        needed = not stamp.exists() or stamp.read_text() != pins
        if needed:
            shutil.rmtree(folder, ignore_errors=True)
        yield needed
        stamp.write_text(pins)


def _pip(python: str, requirements: Path, *arguments: str) -> None:
    pip = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps", *arguments]
    subprocess.run([*pip, "-r", str(requirements)], check=True, timeout=600)


@dataclass(frozen=True)
class Bucket:
    """One bucket of a store."""

    store: str
    name: str
    url: str

    def write(self, key: str, content: bytes) -> None:
        """Store an object. Both emulators keep it as binary/octet-stream or application/octet-stream."""
        headers = SIGNED | {"Content-Type": "application/octet-stream"}
        requests.put(self._url(key), content, headers=headers, timeout=TIMEOUT).raise_for_status()

    def read(self, key: str) -> bytes | None:
        """Return an object's content, ``None`` if it does not exist."""
        response = requests.get(self._url(key), headers=SIGNED, timeout=TIMEOUT)
        if response.status_code == 404:
            return None
        response.raise_for_status()
        return response.content

    def _url(self, key: str) -> str:
        return f"{self.url}/{self.name}/{quote(key)}"


@dataclass(frozen=True)
class S3:
    """A bucket, and the role that Airflow reaches it with: ``s3://put_only@bucket`` may only put."""

    bucket: Bucket

    def path(self, key: str) -> str:
        return f"s3://put_only@{self.bucket.name}/{key}"

    def enforce(self, *, permissions: bool) -> None:
        """Let the server check who calls, or not."""
        count = "0" if permissions else "inf"
        url = f"{self.bucket.url}/moto-api/reset-auth"
        requests.post(url, count, timeout=TIMEOUT).raise_for_status()

    def read(self, key: str) -> bytes | None:
        self.enforce(permissions=False)
        return self.bucket.read(key)

    def listed(self, query: str) -> list[str]:
        """Return the keys in a listing of the bucket, such as that of its versions."""
        self.enforce(permissions=False)
        response = requests.get(f"{self.bucket.url}/{self.bucket.name}?{query}", headers=SIGNED, timeout=TIMEOUT)
        return re.findall("<Key>(.*?)</Key>", response.text)


class Storage:
    """Both emulators, ready to serve within the ``with`` block."""

    def __init__(self) -> None:
        self.ports: dict[str, int] = {}

    def __enter__(self) -> Storage:
        self._process = subprocess.Popen([install(), SCRIPT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self.__exit__()
            raise RuntimeError(f"The emulators ended with {self._process.returncode}")
        self.ports = json.loads(line)
        return self

    def __exit__(self, *_: object) -> None:
        with self._process:
            self._process.terminate()

    def bucket(self, store: str, name: str) -> Bucket:
        """Return the bucket of that name in the store ``s3`` or ``gcs``, created if need be."""
        url = f"http://127.0.0.1:{self.ports[store]}"
        if store == "s3":
            created = requests.put(f"{url}/{name}", headers=SIGNED, timeout=TIMEOUT)
        else:
            created = requests.post(f"{url}/storage/v1/b", json={"name": name}, timeout=TIMEOUT)
        if created.status_code not in (200, 409):
            created.raise_for_status()
        return Bucket(store, name, url)

    def put_only_options(self) -> dict[str, Any]:
        """Create a user of S3 who may only put, and return what s3fs needs to be that user."""
        url = f"http://127.0.0.1:{self.ports['s3']}"

        def call_iam(action: str, **fields: str) -> str:
            data = {"Action": action, "Version": "2010-05-08", "UserName": "put-only"} | fields
            response = requests.post(url, data, headers=IAM, timeout=TIMEOUT)
            response.raise_for_status()
            return response.text

        call_iam("CreateUser")
        call_iam("PutUserPolicy", PolicyName="put-only", PolicyDocument=PUT_ONLY)
        created = call_iam("CreateAccessKey")
        key, secret = (re.findall(f"<{name}>(.*?)<", created)[0] for name in ("AccessKeyId", "SecretAccessKey"))
        return {"key": key, "secret": secret, "client_kwargs": {"endpoint_url": url}}


if __name__ == "__main__":  # prepares the environment, which takes half a minute
    print(install(), file=sys.stderr)
