"""The server's certificate is verified by both drivers, unless the URL says otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest

from dbsync_pipeline.errors import Unavailable
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline_tests.conftest import ENGINES, NewDatabase

pytestmark = pytest.mark.parametrize("engine", [engine for engine in ENGINES if engine == "mssql"])


@pytest.mark.parametrize("driver", ["mssql", "mssql+pyodbc"])
def test_a_certificate_that_nobody_vouches_for_is_refused(
    engine: str,
    driver: str,
    new_database: NewDatabase,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A server without any certificate is refused with other words."""
    nobody = tmp_path / "trusted.crt"
    nobody.touch()
    monkeypatch.setenv("SSL_CERT_FILE", str(nobody))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    given = new_database(engine, "linux")
    verified = Database(given.name, given.url.set(drivername=driver, query={}))
    with (
        pytest.raises(Unavailable, match=r"certificate|no encrypted connection"),
        verified.connect(),
    ):
        pytest.fail("a server that nobody vouches for was believed")
