"""The environment and `.env`: which names are settings, secrets in files, and URLs of databases.

The environment overrides `.env`, which is read from the working folder. A secret may also be in a
file, as Docker, Kubernetes and systemd provide them: `DBSYNC_LINUX_URL_FILE` names the file whose
text is the value of `DBSYNC_LINUX_URL`.

An unknown name that begins with DBSYNC_ is refused, because it is a misspelt setting that would
have no effect. A database whose name resembles a setting is refused too: DBSYNC_ALERT_URL would be
the database `alert`, and no alert would be sent.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from dotenv import dotenv_values

from dbsync_pipeline import dialects
from dbsync_pipeline.errors import SettingsError

FIRST = ("windows", "linux", "azure")
"""The order of these databases everywhere; others follow by name."""

PREFIX, FILE = "DBSYNC_", "_FILE"

LONGEST_SECRET = 65_536
"""Bytes of a file with a secret; a longer file is not one."""

_URL = re.compile(r"^DBSYNC_([A-Z][A-Z0-9]*)_URL$")
_NEARLY = 0.8
"""From this ratio of difflib on, one name may be the other one misspelt: ALERTS and ALERT, but not
HEART and HEARTBEAT."""
_OTHERS = re.compile(
    r"^DBSYNC_(TEST_URLS|(\w+_)?SERVICE_(HOST|PORT\w*)"
    r"|(\w+_)?PORT(_\d+_[A-Z]+(_PROTO|_PORT|_ADDR)?)?)$"
)
"""Not misspelt: the test suite's own, and what Kubernetes sets for services named `dbsync…`."""


def read(settings: Iterable[str], secrets: Iterable[str]) -> dict[str, str]:
    """Return the variables that begin with DBSYNC_, with secrets read from their files.

    `settings` are the names of all settings without DBSYNC_, in lower case, and `secrets` those
    that may be in a file. Raise SettingsError for an unknown name, or a file that cannot be read.
    """
    known = {f"{PREFIX}{name.upper()}" for name in settings}
    in_files = {f"{PREFIX}{name.upper()}{FILE}" for name in secrets}
    variables = _variables()
    _refuse_unknown(variables, known, in_files)
    return {**variables, **_from_files(variables, known, in_files)}


def _variables() -> dict[str, str]:
    try:
        variables = {**dotenv_values(".env"), **os.environ}
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"the file .env cannot be read: {getattr(error, 'strerror', None) or 'not UTF-8'}",
            operation="read settings",
            remedy="make .env a readable text file in UTF-8, or remove it",
        ) from None
    return {
        name: value or "" for name, value in variables.items() if name.upper().startswith(PREFIX)
    }


def _refuse_unknown(variables: Iterable[str], known: set[str], in_files: set[str]) -> None:
    unknown = [
        name
        for name in variables
        if name.upper() not in known | in_files
        and not _OTHERS.match(name)
        and not database_of(name.removesuffix(FILE), known)
    ]
    if unknown:
        likely = known | {f"{PREFIX}{name.upper()}_URL" for name in FIRST}
        names = ", ".join(_with_likeliest(name, likely) for name in sorted(unknown))
        raise SettingsError(
            f"no such setting: {names}",
            remedy="correct its name, or remove it from the environment or .env. docs/settings.md"
            " lists all settings. A database is DBSYNC_<NAME>_URL, with a name of letters and"
            " digits that does not resemble a setting",
        )


def _with_likeliest(name: str, known: set[str]) -> str:
    """Return the name and the setting that was probably meant, compared without DBSYNC_."""
    endings = {setting.removeprefix(PREFIX): setting for setting in sorted(known)}
    close = difflib.get_close_matches(name.upper().removeprefix(PREFIX), endings, n=1)
    return f"{name} (probably {endings[close[0]]})" if close else name


def _from_files(
    variables: Mapping[str, str], known: set[str], in_files: set[str]
) -> dict[str, str]:
    """Return the secrets that are in files, by the names of their settings."""
    values: dict[str, str] = {}
    for name, path in variables.items():
        setting = name.upper().removesuffix(FILE)
        is_file = name.upper() in in_files or (
            name.endswith(FILE) and database_of(setting, known) is not None
        )
        if is_file and path:
            values[setting] = _secret(name, setting, Path(path), variables)
    return values


def _secret(name: str, setting: str, path: Path, variables: Mapping[str, str]) -> str:
    if variables.get(setting):
        raise _wrong_file(name, f"is set, and so is {setting}", f"remove {name} or {setting}")
    try:
        with path.open("rb") as file:
            text = file.read(LONGEST_SECRET + 1).decode().strip()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path, or not UTF-8
        cause = (
            f"names a file that cannot be read: {getattr(error, 'strerror', None) or 'not text'}"
        )
        raise _wrong_file(name, cause, f"name a readable text file in {name}") from None
    if not text or len(text) > LONGEST_SECRET:
        cause = f"names a file that is {'too long' if text else 'empty'}"
        raise _wrong_file(name, cause, f"write the value of {setting} into the file")
    return text


def _wrong_file(name: str, cause: str, remedy: str) -> SettingsError:
    return SettingsError(f"{name} {cause}", operation="read settings", remedy=remedy)


# Databases ----------------------------------------------------------------------------------------


def database_of(variable: str, known: Iterable[str]) -> str | None:
    """Return the database whose URL the variable is; None if it is none, or nearly a setting."""
    match = _URL.match(variable)
    alike = [
        name.removeprefix(PREFIX).rpartition("_URL")[0]
        for name in known
        if name.endswith(("_URL", "_URLS"))
    ]
    if match is None or difflib.get_close_matches(match[1], alike, cutoff=_NEARLY):
        return None
    return match[1].lower()


def urls(variables: Mapping[str, str], settings: Iterable[str]) -> dict[str, str]:
    """Return the URL of each database by its name, in order; empty if none is set.

    Raise SettingsError if two of them name the same database.
    """
    known = {f"{PREFIX}{name.upper()}" for name in settings}
    named = {database_of(variable, known): value for variable, value in variables.items()}
    given = {name: value for name, value in named.items() if name and value}
    _refuse_same(given)
    return dict(sorted(given.items(), key=_order))


def _refuse_same(named: Mapping[str, str]) -> None:
    places: dict[tuple[object, ...], str] = {}
    for name, url in sorted(named.items(), key=_order):
        place = dialects.place(url)
        if place and place in places:
            first, second = (f"{PREFIX}{same.upper()}_URL" for same in (places[place], name))
            raise SettingsError(
                f"{first} and {second} name the same database",
                operation="read settings",
                remedy=f"correct {second}, or remove it",
            )
        places[place] = name


def embedded(home: Path) -> dict[str, str]:
    """Return the URLs of the three files that are used if no URL is set."""
    return {name: dialects.file_url(home, name) for name in FIRST}


def _order(item: tuple[str, str]) -> tuple[int, str]:
    name = item[0]
    return (FIRST.index(name) if name in FIRST else len(FIRST), name)
