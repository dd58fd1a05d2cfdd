"""Both drivers verify the server's certificate, unless the URL overrides it."""

from __future__ import annotations

from pathlib import Path

import pytest

from dbsync_pipeline.errors import Unavailable
from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline_tests.conftest import ENGINES, NewDatabase

pytestmark = pytest.mark.parametrize("engine", [engine for engine in ENGINES if engine == "mssql"])


@pytest.mark.parametrize("driver", ["mssql", "mssql+pyodbc"])
def test_a_certificate_of_an_unknown_authority_is_refused(
    engine: str,
    driver: str,
    new_database: NewDatabase,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A server without any certificate is refused with another error."""
    no_authority = tmp_path / "trusted.crt"
    no_authority.touch()
    monkeypatch.setenv("SSL_CERT_FILE", str(no_authority))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    database = new_database(engine, "linux")
    verified = Database(database.name, database.url.set(drivername=driver, query={}))
    with (
        pytest.raises(Unavailable, match=r"certificate|no encrypted connection"),
        verified.connect(),
    ):
        pytest.fail("an unknown authority was trusted")
