"""A server whose connections are all taken says so. The test has a server of its own, which it fills."""

from __future__ import annotations

from contextlib import ExitStack, closing, suppress

import psycopg2
import pytest

from dbsync_pipeline.errors import Unavailable
from dbsync_pipeline_tests.conftest import NewDatabase
from dbsync_pipeline_tests.roles import Roles
from dbsync_pipeline_tests.test_look import new_database, servers  # noqa: F401


def test_a_server_without_a_connection_for_ordinary_roles_is_not_called_unreachable(
    new_database: NewDatabase,  # noqa: F811
    roles: Roles,
) -> None:
    """It keeps the last ones for superusers, and says that in other words than "too many"."""
    role = roles.new(new_database("postgresql", "windows"))
    url = role.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with ExitStack() as taken:
        with suppress(psycopg2.OperationalError):
            while True:
                taken.enter_context(closing(psycopg2.connect(url)))
        with pytest.raises(Unavailable, match="the server accepts no further connections"):
            role.open()
