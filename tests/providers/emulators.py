"""
Serves Amazon S3 (moto) and Google Cloud Storage (gcp-storage-emulator) on loopback.

It is a script for the environment of ``emulators.txt``. It prints one line of JSON, the port of each server, and ends
when its standard input does.
"""

from __future__ import annotations

import json
import logging
import sys
from http import HTTPStatus
from typing import Any
from xml.sax.saxutils import escape

from gcp_storage_emulator import server
from gcp_storage_emulator.handlers import objects
from moto.server import ThreadedMotoServer

#: What Google's XML API, which the gateway uses, says of an object that does not exist.
NO_SUCH_KEY = (
    b"<?xml version='1.0' encoding='UTF-8'?><Error><Code>NoSuchKey</Code>"
    b"<Message>The specified key does not exist.</Message></Error>"
)


class HeadersOnly:
    """Sends a response as far as its headers."""

    def __init__(self, target: Any) -> None:
        self._target = target
        self._ended = False

    def write(self, data: bytes) -> int:
        if not self._ended:
            self._target.write(data)
        self._ended = self._ended or data.endswith(b"\r\n\r\n")
        return len(data)

    def flush(self) -> None:
        self._target.flush()


def download(request: Any, response: Any, storage: Any) -> None:
    """Respond with an object, or as Google does where there is none: the emulator has an empty body then."""
    objects.download(request, response, storage)
    if response.status == HTTPStatus.NOT_FOUND:
        response.write_file(NO_SUCH_KEY, content_type="application/xml; charset=UTF-8")


def list_bucket(request: Any, response: Any, storage: Any) -> None:
    """Respond with a bucket's objects as Google's XML API does, which the emulator does not have."""
    files, _ = storage.get_file_list(request.params["bucket_name"])
    names = "".join(f"<Contents><Key>{escape(file['name'])}</Key></Contents>" for file in files)
    listing = f"<?xml version='1.0' encoding='UTF-8'?><ListBucketResult>{names}</ListBucketResult>"
    response.write_file(listing.encode(), content_type="application/xml; charset=UTF-8")


def respond_to_head(self: Any) -> None:
    """Respond with the headers of a GET: the emulator has no HEAD, and the gateway needs it."""
    target, self.wfile = self.wfile, HeadersOnly(self.wfile)
    try:
        self.do_GET()
    finally:
        self.wfile = target


def main() -> None:
    """Serve until standard input ends."""
    logging.disable(logging.CRITICAL)
    server.RequestHandler.do_HEAD = respond_to_head
    # The emulator has no route for names that end in a slash, as those of folders do.
    server.HANDLERS = (
        *server.HANDLERS[:-1],
        (r"^/(?P<bucket_name>[-.\w]+)/?$", {"GET": list_bucket}),
        (r"^/(?P<bucket_name>[-.\w]+)/(?P<object_id>.+)$", {"GET": download, "PUT": objects.xml_upload}),
    )
    s3 = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    s3.start()
    with server.create_server("127.0.0.1", 0, in_memory=True) as gcs:
        ports = {"s3": s3.get_host_and_port()[1], "gcs": gcs._api._httpd.server_address[1]}
        print(json.dumps(ports), flush=True)
        sys.stdin.read()
    s3.stop()


if __name__ == "__main__":
    main()
