"""${message.replace("\\", "\\\\").replace('"', '\\"')}."""

from __future__ import annotations

${imports + "\n" if imports else ""}import sqlalchemy as sa
from alembic import op

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}

