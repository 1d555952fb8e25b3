"""What a hub says of itself from what it is told at its start."""

from __future__ import annotations

from pathlib import Path

import pytest

from authz.hub.settings import HubSettings


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8800/"),
        ("localhost", "http://localhost:8800/"),
        ("::1", "http://[::1]:8800/"),
    ],
)
def test_the_address_of_the_page_is_a_url(host: str, url: str) -> None:
    assert HubSettings(data=Path("data"), host=host, port=0).url("http", 8800) == url
