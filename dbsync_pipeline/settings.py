"""The settings: environment variables and `.env`, read into frozen values by this module alone.

A database is one setting, `DBSYNC_<NAME>_URL`. If any is set, the databases are those that have
one; otherwise they are three SQLite files under `DBSYNC_HOME`. The environment overrides `.env`,
which is read from the working folder.

An unknown name that begins with DBSYNC_ is refused, because it is a misspelt setting that would
have no effect. A database whose name resembles a setting is refused too: DBSYNC_ALERT_URL would be
the database `alert`, and no alert would be sent.
"""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from dotenv import dotenv_values
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from dbsync_pipeline.errors import SettingsError
from dbsync_pipeline.policy import Policy

FIRST = ("windows", "linux", "azure")
"""The order of these databases everywhere; others follow by name."""

SHORTEST_TOKEN = 20
"""Characters; a shorter token could be guessed."""

_URL = re.compile(r"^DBSYNC_([A-Z][A-Z0-9]*)_URL$")
_NEARLY = 0.8
"""From this ratio of difflib on, one name may be the other one misspelt: ALERTS and ALERT, but not
HEART and HEARTBEAT."""
_OTHERS = re.compile(
    r"^DBSYNC_(TEST_URLS|(\w+_)?SERVICE_(HOST|PORT\w*)"
    r"|(\w+_)?PORT(_\d+_[A-Z]+(_PROTO|_PORT|_ADDR)?)?)$"
)
"""Not misspelt: the test suite's own, and what Kubernetes sets for services named `dbsync…`."""


class DatabaseSetting(BaseModel):
    """One database: its name, a lower-case word, and its URL, which is a secret."""

    model_config = ConfigDict(frozen=True)

    name: str
    url: SecretStr


class Settings(BaseSettings, Policy):
    """Every setting, with its default. `load()` reads them."""

    model_config = SettingsConfigDict(
        env_prefix="DBSYNC_", env_file=".env", frozen=True, extra="ignore"
    )

    home: Path = Field(
        default=Path(".dbsync"),
        description="The folder of the embedded databases and of Dagster's records.",
    )
    models: str = Field(
        default="dbsync_pipeline.models",
        description="The module with the tables' models: its `Base.metadata`, or its `metadata`.",
    )
    revisions: Path | None = Field(
        default=None,
        description="The folder of the models' revisions; `dbsync_revisions` beside the module "
        "of the models if not set.",
    )
    primary: str = Field(
        default="windows",
        description="The database that the application writes to, until a promotion names another.",
    )
    key_gap: int = Field(
        default=100_000,
        ge=0,
        description="How far a standby's counters stay ahead of the primary's, so that rows "
        "written on both sides of an outage share no keys.",
    )
    rescue_days: float = Field(
        default=30, ge=0, description="For how many days before-images are kept on the target."
    )
    rescue_mb: float = Field(
        default=1000, ge=0, description="Up to how many megabytes before-images are kept."
    )
    lock_seconds: float = Field(
        default=30,
        gt=0,
        description="For how many seconds a sync waits for locks on the target's tables.",
    )
    connect_seconds: float = Field(
        default=10, gt=0, description="For how many seconds a connection is attempted."
    )
    max_age_hours: float = Field(
        default=7,
        gt=0,
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
    history_days: float = Field(
        default=90,
        gt=0,
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
        description="The token that every request to `dbsync serve` must carry, at least "
        f"{SHORTEST_TOKEN} characters.",
    )
    failover: Literal["auto", "alert", "off"] = Field(
        default="auto",
        description="What happens when the primary does not respond: `auto` syncs the other "
        "standbys from the newest one and promotes it if the application already writes there; "
        "`alert` only reports what would be done; `off` does not probe.",
    )
    failover_after_failures: int = Field(
        default=3, ge=1, description="A failover needs this many failed probes in a row ..."
    )
    failover_grace_seconds: float = Field(
        default=300, ge=0, description="... over at least this many seconds."
    )
    failover_probe_seconds: int = Field(
        default=60, ge=1, description="The seconds between two probes of the primary."
    )
    databases: Annotated[tuple[DatabaseSetting, ...], NoDecode] = ()

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError):
            raise ValueError(
                "no time zone of that name is known; write it as in Europe/Madrid"
            ) from None
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
        return token

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
    _refuse_unknown()
    try:
        settings = Settings()
    except ValidationError as error:
        wrong = ", ".join(
            f"DBSYNC_{str(problem['loc'][0]).upper()} ({problem['msg']})"
            for problem in error.errors()
        )
        raise SettingsError(
            f"wrong settings: {wrong}", remedy="correct them in the environment or in .env"
        ) from None
    urls = _urls() or _embedded(settings.home)
    named = tuple(
        DatabaseSetting(name=name, url=SecretStr(url))
        for name, url in sorted(urls.items(), key=_order)
    )
    return settings.model_copy(update={"databases": named})


def _environment() -> dict[str, str | None]:
    return {**dotenv_values(".env"), **os.environ}


def _refuse_unknown() -> None:
    """Refuse a name that begins with DBSYNC_, in upper or lower case, and is not a setting."""
    settings = {f"DBSYNC_{name.upper()}" for name in Settings.model_fields if name != "databases"}
    unknown = [
        name
        for name in _environment()
        if name.upper().startswith("DBSYNC_")
        and name.upper() not in settings
        and not _named_by(name)
        and not _OTHERS.match(name)
    ]
    if unknown:
        known = settings | {f"DBSYNC_{name.upper()}_URL" for name in FIRST}
        names = ", ".join(_with_likeliest(name, known) for name in sorted(unknown))
        raise SettingsError(
            f"no such setting: {names}",
            remedy="correct its name, or remove it from the environment or .env. docs/settings.md"
            " lists all settings. A database is DBSYNC_<NAME>_URL, with a name of letters and"
            " digits that does not resemble a setting",
        )


def _with_likeliest(name: str, known: set[str]) -> str:
    """Return the name and the setting that was probably meant, compared without DBSYNC_."""
    endings = {setting.removeprefix("DBSYNC_"): setting for setting in sorted(known)}
    close = difflib.get_close_matches(name.upper().removeprefix("DBSYNC_"), endings, n=1)
    return f"{name} (probably {endings[close[0]]})" if close else name


def _urls() -> dict[str, str]:
    named: dict[str, str] = {}
    for variable, value in _environment().items():
        name = _named_by(variable)
        if name and value:
            named[name] = value
    return named


def _named_by(variable: str) -> str | None:
    """Return the database whose URL the variable is, or None."""
    match = _URL.match(variable)
    others = [
        name.upper().rpartition("_URL")[0]
        for name in Settings.model_fields
        if name.endswith(("_url", "_urls"))
    ]
    return (
        match[1].lower()
        if match and not difflib.get_close_matches(match[1], others, cutoff=_NEARLY)
        else None
    )


def _embedded(home: Path) -> dict[str, str]:
    return {name: f"sqlite:///{(home / f'{name}.db').absolute()}" for name in FIRST}


def _order(item: tuple[str, str]) -> tuple[int, str]:
    name = item[0]
    return (FIRST.index(name) if name in FIRST else len(FIRST), name)
