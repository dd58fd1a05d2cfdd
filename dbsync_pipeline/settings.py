"""The settings, read into frozen values by this module alone.

A database is one setting, `DBSYNC_<NAME>_URL`. If any is set, the databases are those that have
one; otherwise they are three SQLite files under `DBSYNC_HOME`. Every setting has a range, so that
no value can cause an error later, in a library or in a database.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
)

from dbsync_pipeline import environment
from dbsync_pipeline.environment import FIRST as FIRST
from dbsync_pipeline.errors import SettingsError
from dbsync_pipeline.policy import Policy

REFLECT = "reflect"
"""The value of DBSYNC_MODELS that makes the structure of the primary the models."""

SHORTEST_TOKEN = 20
"""Characters; a shorter token could be guessed."""

_DATABASE = re.compile(r"[a-z][a-z0-9]*")
_TOKEN = re.compile(r"[!-~]+")


class DatabaseSetting(BaseModel):
    """One database: its name, a lower-case word, and its URL, which is a secret."""

    model_config = ConfigDict(frozen=True)

    name: str
    url: SecretStr


class Settings(Policy):
    """Every setting, with its default. `load()` reads them."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    home: Path = Field(
        default=Path(".dbsync"),
        description="The folder of the embedded databases and of Dagster's records.",
    )
    models: str = Field(
        default="",
        description="The module with the tables' models, or several, separated by commas: "
        "`package.module`, or `package.module:attribute` for a base class of models, a MetaData, "
        "or Flask-SQLAlchemy's `db`. `reflect` reads the structure of the primary and keeps it. "
        "If not set: the sample tables, or `reflect` where the primary is named by a URL and has "
        "tables, but none of the sample's.",
    )
    schemas: str = Field(
        default="",
        description="The schemas whose tables `reflect` reads, separated by blanks; all but the "
        "system's if not set.",
    )
    tables: str = Field(
        default="",
        description="The tables to mirror, by name or pattern, such as `users sales.*`; all of the "
        "models if not set.",
    )
    skip_tables: str = Field(
        default="",
        description="Tables to leave out, by name or pattern, such as `audit_*`. Tables of tools, "
        "such as `alembic_version`, are left out unless DBSYNC_TABLES names them.",
    )
    revisions: Path | None = Field(
        default=None,
        description="The folder of the models' revisions; `dbsync_revisions` beside the module "
        "of the models if not set. `off`: the application's own migrations alter the tables.",
    )
    primary: str = Field(
        default="windows",
        description="The database that the application writes to, until a promotion names another.",
    )
    key_gap: int = Field(
        default=100_000,
        ge=0,
        le=10**12,
        description="How far a standby's counters stay ahead of the primary's, so that rows "
        "written on both sides of an outage share no keys.",
    )
    rescue_days: float = Field(
        default=30,
        ge=0,
        le=36_500,
        description="For how many days before-images are kept on the target.",
    )
    rescue_mb: float = Field(
        default=1000, ge=0, le=10**9, description="Up to how many megabytes before-images are kept."
    )
    full_every: float = Field(
        default=7,
        ge=0,
        le=36_500,
        description="After how many days a sync hashes every row again, although the row headers "
        "of PostgreSQL show what changed: they do not show silent corruption. 0 hashes always.",
    )
    connections: int = Field(
        default=2,
        ge=1,
        le=16,
        description="Over how many connections a first load between two PostgreSQL servers reads a "
        "table larger than 8 MB. All see one snapshot. More are quicker where each connection is "
        "slower than the network.",
    )
    lock_seconds: float = Field(
        default=30,
        ge=0.1,
        le=86_400,
        description="For how many seconds a sync waits for locks on the target's tables.",
    )
    connect_seconds: float = Field(
        default=10, ge=0.1, le=3_600, description="For how many seconds a connection is attempted."
    )
    silence_seconds: float = Field(
        default=60,
        ge=1,
        le=86_400,
        description="For how many seconds an open connection may be silent while a reply is due. "
        "A statement that the server still executes is not silent.",
    )
    max_age_hours: float = Field(
        default=7,
        gt=0,
        le=87_600,
        description="How many hours old a standby's state may be before its check fails and an "
        "alert is sent: the schedule's six hours, and one to run.",
    )
    timezone: str = Field(
        default="UTC", description="The time zone of the schedules, such as `Europe/Madrid`."
    )
    schedule: str = Field(
        default="0 */6 * * *",
        description="When all standbys are synced, in cron's form: minute, hour, day, month, "
        "weekday.",
    )
    readiness_schedule: str = Field(
        default="*/15 * * * *",
        description="When each standby is checked whether it could take over, in cron's form. A "
        "check wakes a serverless database.",
    )
    history_days: float = Field(
        default=90,
        gt=0,
        le=36_500,
        description="For how many days Dagster keeps its runs; the ledgers keep every publish.",
    )
    alert_urls: SecretStr = Field(
        default=SecretStr(""),
        description="Where alerts go: Apprise URLs, separated by blanks or commas.",
    )
    heartbeat_url: SecretStr = Field(
        default=SecretStr(""),
        description="A URL that is requested after each good sync, for a watchdog that alerts "
        "when the requests stop.",
    )
    dagster_storage_url: SecretStr = Field(
        default=SecretStr(""),
        description="A PostgreSQL database for Dagster's records, instead of SQLite in "
        "`DAGSTER_HOME`; needs the extra `postgres-storage`.",
    )
    api_token: SecretStr = Field(
        default=SecretStr(""),
        description="The token that opens `dbsync serve`, its page and its API: at least "
        f"{SHORTEST_TOKEN} characters.",
    )
    asset_prefix: str = Field(
        default="",
        description="The first parts of the tables' asset keys in Dagster, such as `dbsync` or "
        "`mirror/prod`, for a deployment with other assets of the same names.",
    )
    asset_owners: str = Field(
        default="",
        description="The owners of the tables' assets, separated by blanks: mail addresses, or "
        "teams such as `team:platform`.",
    )
    asset_tags: str = Field(
        default="",
        description="Tags of the tables' assets, separated by blanks, such as `domain=chat`.",
    )
    failover: Literal["auto", "alert", "off"] = Field(
        default="auto",
        description="What happens when the primary does not respond: `auto` syncs the other "
        "standbys from the newest one and promotes it if the application already writes there; "
        "`alert` only reports what would be done; `off` does not probe.",
    )
    failover_after_failures: int = Field(
        default=3,
        ge=1,
        le=1_000,
        description="A failover needs this many failed probes in a row ...",
    )
    failover_grace_seconds: float = Field(
        default=300, ge=0, le=604_800, description="... over at least this many seconds."
    )
    failover_probe_seconds: int = Field(
        default=60, ge=1, le=86_400, description="The seconds between two probes of the primary."
    )
    databases: tuple[DatabaseSetting, ...] = ()

    @field_validator(
        "home",
        "models",
        "revisions",
        "primary",
        "timezone",
        "schedule",
        "readiness_schedule",
        mode="before",
    )
    @classmethod
    def _not_empty(cls, value: object) -> object:
        if isinstance(value, str) and (not value.strip() or "\0" in value):
            raise ValueError("it is empty; remove it to use the default")
        return value

    @field_validator("primary")
    @classmethod
    def _database_name(cls, value: str) -> str:
        if not _DATABASE.fullmatch(value):
            raise ValueError("not a database's name, such as windows: lower-case letters, digits")
        return value

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError("unknown time zone; write it like Europe/Madrid") from None
        return value

    @field_validator("heartbeat_url")
    @classmethod
    def _requestable(cls, value: SecretStr) -> SecretStr:
        url = value.get_secret_value()
        if url and not re.fullmatch(r"https?://[^\s/]\S*", url):
            raise ValueError("it must begin with http:// or https://, and have no blanks")
        return value

    @field_validator("asset_prefix")
    @classmethod
    def _key_parts(cls, value: str) -> str:
        if value and not re.fullmatch(r"\w+(/\w+)*", value, re.ASCII):
            raise ValueError("letters, digits and _, in parts separated by /, such as mirror/prod")
        return value

    @field_validator("asset_owners")
    @classmethod
    def _owners(cls, value: str) -> str:
        if any(
            not re.fullmatch(r"team:\w+|[^@\s]+@[^@\s]+\.[^@\s]+", owner) for owner in value.split()
        ):
            raise ValueError("mail addresses and teams, such as team:platform, between blanks")
        return value

    @field_validator("asset_tags")
    @classmethod
    def _tags(cls, value: str) -> str:
        if any(not re.fullmatch(r"[\w.-]{1,63}=[\w.-]{0,63}", tag) for tag in value.split()):
            raise ValueError("name=value between blanks, of letters, digits, _, . and -")
        return value

    @property
    def policy(self) -> Policy:
        """What the settings allow in every sync."""
        return Policy(**{name: getattr(self, name) for name in Policy.model_fields})

    @property
    def dagster_home(self) -> Path:
        """The absolute folder of Dagster's runs: `DAGSTER_HOME`, or `dagster` under `home`."""
        return Path(os.environ.get("DAGSTER_HOME") or self.home / "dagster").absolute()

    def database(self, name: str) -> DatabaseSetting:
        """Return the database of that name; raise SettingsError, with all names, if none has it."""
        for database in self.databases:
            if database.name == name:
                return database
        known, own = ", ".join(self.names), f"set DBSYNC_{name.upper()}_URL"
        named_by = ", which DBSYNC_PRIMARY names" if name == self.primary else ""
        where = " in DBSYNC_PRIMARY" if name == self.primary else ""
        raise SettingsError(
            f"there is no database {name!r}{named_by}; the databases are: {known}",
            remedy=f"name one of them{where}, or {own}",
        )

    def required_api_token(self) -> str:
        """Return the token of the HTTP API. Raise SettingsError if it is missing or too short."""
        token = self.api_token.get_secret_value()
        if len(token) < SHORTEST_TOKEN:
            problem = f"shorter than {SHORTEST_TOKEN} characters" if token else "not set"
            raise SettingsError(
                f"DBSYNC_API_TOKEN is {problem}, so anyone could start a sync",
                operation="serve",
                remedy="set it to a long random text, for example from `openssl rand -hex 32`",
            )
        if not _TOKEN.fullmatch(token):
            raise SettingsError(
                "DBSYNC_API_TOKEN has blanks or letters that an HTTP header cannot carry",
                operation="serve",
                remedy="set it to letters and digits, for example from `openssl rand -hex 32`",
            )
        return token

    @property
    def embedded(self) -> bool:
        """Whether no database is named by a URL, so that they are the SQLite files in `home`."""
        urls = {each.name: each.url.get_secret_value() for each in self.databases}
        return urls == environment.embedded(self.home)

    @property
    def schema_names(self) -> tuple[str, ...]:
        """The schemas that `reflect` reads; empty for all but the system's."""
        return tuple(re.split(r"[,\s]+", self.schemas.strip(", "))) if self.schemas else ()

    @property
    def answer_seconds(self) -> float:
        """The seconds that a question to a database may take: to connect, and five to answer."""
        return self.connect_seconds + 5

    @property
    def max_age_seconds(self) -> float:
        """The seconds from which on the state of a standby is too old."""
        return self.max_age_hours * 3600

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the databases: windows, linux, azure, then by name."""
        return tuple(database.name for database in self.databases)


def load() -> Settings:
    """Read the settings. Raise SettingsError, which never quotes a value, if one is wrong."""
    variables = environment.read(_names(), _secrets())
    given = {name.lower().removeprefix("dbsync_"): value for name, value in variables.items()}
    try:
        settings = Settings.model_validate(
            {name: given[name] for name in _names() if name in given}
        )
    except ValidationError as error:
        raise _wrong(error) from None
    urls = environment.urls(variables, _names()) or environment.embedded(settings.home)
    databases = [DatabaseSetting(name=name, url=SecretStr(url)) for name, url in urls.items()]
    return settings.model_copy(update={"databases": tuple(databases)})


def _wrong(error: ValidationError) -> SettingsError:
    wrong = ", ".join(
        f"DBSYNC_{str(problem['loc'][0]).upper()} ({problem['msg'].removeprefix('Value error, ')})"
        for problem in error.errors()
    )
    return SettingsError(
        f"wrong settings: {wrong}", remedy="correct them in the environment or in .env"
    )


def _names() -> list[str]:
    return [name for name in Settings.model_fields if name != "databases"]


def _secrets() -> list[str]:
    return [name for name, field in Settings.model_fields.items() if field.annotation is SecretStr]
