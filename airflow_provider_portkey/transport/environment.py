"""CA certificates and proxies, from the connection or the environment: the same for both HTTP libraries."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from airflow_provider_portkey.exceptions import PortkeyInputError
from airflow_provider_portkey.text import message

if TYPE_CHECKING:
    import ssl

    from airflow_provider_portkey.settings import Settings


def ca_path(settings: Settings) -> tuple[str, str]:
    """Return what names the CA certificates (connection, environment or certifi), and their file or folder."""
    from requests.utils import DEFAULT_CA_BUNDLE_PATH

    if isinstance(settings.verify, str):
        return "verify in the connection's extra", settings.verify
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        if path := os.environ.get(name):
            return name, path
    return "certifi", DEFAULT_CA_BUNDLE_PATH


def ca_changed_at(settings: Settings) -> float:
    """Return when the CA certificates last changed, in Unix seconds; 0 if they cannot be read."""
    try:
        return Path(ca_path(settings)[1]).stat().st_mtime
    except OSError:
        return 0.0


def ssl_context(settings: Settings) -> ssl.SSLContext:
    """
    Return the context that verifies a server's certificate.

    :raises PortkeyInputError: if the CA certificates cannot be read
    """
    import ssl

    name, path = ca_path(settings)
    try:
        if Path(path).is_dir():
            return ssl.create_default_context(capath=path)
        return ssl.create_default_context(cafile=path)
    except OSError as error:  # including ssl's own errors
        raise PortkeyInputError(
            message(
                f"No CA certificates: check {name} ({path!r})",
                f"For {settings.full_name}, {name} names {path!r}, which is not a readable file or folder of CA "
                f"certificates on this machine ({error}).",
            )
        ) from None


def ca_file(settings: Settings) -> str:
    """
    Return the file or folder of CA certificates.

    :raises PortkeyInputError: if somebody named it and it cannot be read
    """
    name, path = ca_path(settings)
    if name != "certifi":
        ssl_context(settings)
    return path


def proxy_url(settings: Settings) -> str | None:
    """
    Return the proxy's URL: the connection's, or the environment's unless ``NO_PROXY`` excludes the host.

    :raises PortkeyInputError: if it is not an HTTP proxy
    """
    from requests.utils import get_environ_proxies, select_proxy

    source = "proxy in the connection's extra"
    proxy: str | None = settings.proxy
    if proxy is None:
        source = "the environment"
        proxy = select_proxy(settings.base_url, get_environ_proxies(settings.base_url))
    if not proxy:
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    scheme = proxy.partition(":")[0]
    problem = "Invalid proxy URL" if scheme in ("http", "https") else f"Unsupported {scheme} proxy"
    try:
        parts = urlsplit(proxy)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return proxy
    except ValueError:
        pass
    raise PortkeyInputError(
        message(
            f"{problem}: use a URL such as http://proxy.example.com:3128, or NO_PROXY",
            f"For {settings.full_name}, {source} names the proxy. NO_PROXY excludes hosts from it.",
        )
    )
