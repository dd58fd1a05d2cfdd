"""Write the reference pages that are made from the code: settings, commands, metrics, decisions.

Run `make reference` after a change of a setting, of the command line or of a metric; a test compares the pages
with what this script would write.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import typer.main
from annotated_types import Ge, Gt, Le, Lt
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from dbsync_pipeline.cli import app as command_line
from dbsync_pipeline.http.metrics import CACHE_SECONDS, METRICS
from dbsync_pipeline.policy import Policy
from dbsync_pipeline.settings import Settings

DOCS = Path(__file__).parent
NOTICE = "<!-- Made by `make reference`; edit the descriptions in the code instead. -->"

GROUPS = {
    "Databases and models": ("primary", "models", "revisions", "home"),
    "What every sync may do": tuple(Policy.model_fields),
    "Undo": ("rescue_days", "rescue_mb"),
    "Waiting": ("connect_seconds", "lock_seconds", "silence_seconds"),
    "Schedules, age and history": (
        "schedule",
        "timezone",
        "max_age_hours",
        "full_every",
        "history_days",
    ),
    "Failover": (
        "failover",
        "failover_after_failures",
        "failover_grace_seconds",
        "failover_probe_seconds",
        "key_gap",
    ),
    "Assets in Dagster": ("asset_prefix", "asset_owners", "asset_tags"),
    "Alerts and surfaces": ("alert_urls", "heartbeat_url", "api_token", "dagster_storage_url"),
}
"""The settings by subject. What is in none of them is listed last, so a new one is never left out."""

KINDS = {int: "INTEGER", float: "NUMBER", Path: "PATH"}
"""What the value of an option is called where the option does not say."""


def pages() -> dict[Path, str]:
    """Return every generated page with its text."""
    return {
        DOCS / "settings.md": settings_page(),
        DOCS / "commands.md": commands_page(),
        DOCS / "metrics.md": metrics_page(),
        DOCS / "decisions" / "README.md": decisions_page(),
    }


# Settings --------------------------------------------------------------------------------------


def settings_page() -> str:
    """Return the page of all settings, grouped by subject."""
    grouped = {name for names in GROUPS.values() for name in names}
    rest = tuple(name for name in Settings.model_fields if name not in {*grouped, "databases"})
    parts = [
        "# Settings",
        NOTICE,
        "Settings are environment variables. They may also stand in a file `.env` in the working "
        "folder; the environment\nwins. None is required. A name that begins with `DBSYNC_` and "
        "is not a setting is refused, so a misspelt setting is\nnever ignored; so is a database "
        "whose name is nearly a setting's (`DBSYNC_ALERT_URL`).",
        "Settings marked *secret* are never printed, logged or stored. Each of them, and the URL "
        "of each database, may be in a file\ninstead, as Docker, Kubernetes and systemd provide "
        "secrets: `DBSYNC_LINUX_URL_FILE` names the file that holds the value\nof "
        "`DBSYNC_LINUX_URL`.",
        "## One URL per database",
        "| setting | default | |\n|---|---|---|\n| `DBSYNC_<NAME>_URL` | SQLite files "
        "`windows.db`, `linux.db`, `azure.db` in `DBSYNC_HOME` | A database; the name consists of "
        "letters and digits. When any URL is set, only databases with a URL exist. *Secret.* |",
        *(_group(title, names) for title, names in GROUPS.items()),
        *([_group("Other", rest)] if rest else []),
        "## Dagster's own\n\n| setting | default | |\n|---|---|---|\n| `DAGSTER_HOME` | "
        "`dagster` in `DBSYNC_HOME` | The folder of Dagster's records and of its `dagster.yaml`. "
        "It is not read from `.env`: export it where you run `dagster` itself. |",
    ]
    return "\n\n".join(parts) + "\n"


def _group(title: str, names: tuple[str, ...]) -> str:
    rows = [_setting(name, Settings.model_fields[name]) for name in names]
    return "\n".join([f"## {title}", "", "| setting | default | |", "|---|---|---|", *rows])


def _setting(name: str, field: FieldInfo) -> str:
    notes = [field.description or "", *_limits(field)]
    if field.annotation is SecretStr:
        notes.append("*Secret.*")
    return (
        f"| `DBSYNC_{name.upper()}` | {_default(field.default) or '-'} | {_cell(' '.join(notes))} |"
    )


def _default(value: Any) -> str:
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if value in (None, ""):
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _limits(field: FieldInfo) -> Iterator[str]:
    """Say which values are allowed, as the field's constraints have it."""
    if get_origin(field.annotation) is Literal:
        yield f"One of {', '.join(f'`{value}`' for value in get_args(field.annotation))}."
    limits = [word for constraint in field.metadata if (word := _limit(constraint))]
    if limits:
        yield f"{' and '.join(limits).capitalize()}."


def _limit(constraint: Any) -> str | None:
    match constraint:
        case Ge(ge=0):
            return "not negative"
        case Ge(ge=least):
            return f"at least {least:,}"
        case Gt(gt=least):
            return f"more than {least:,}"
        case Le(le=most):
            return None if most == 2**63 - 1 else f"at most {most:,}"
        case Lt(lt=most):
            return f"less than {most:,}"
    return None


# Commands --------------------------------------------------------------------------------------


def commands_page() -> str:
    """Return the page of all commands, in the order of `dbsync --help`."""
    root = typer.main.get_command(command_line.build())
    parts = [
        "# Commands",
        NOTICE,
        textwrap.fill(
            "`dbsync` reads the [settings](settings.md), does one thing, and ends with an exit "
            "status: 0 if what was requested is true afterwards (for `sync`: every target equals "
            "the source), 1 if it is not, 2 if the request was wrong, 3 if a database did not say "
            "whether it committed, and 130 after Ctrl-C. With `--json` a command prints one JSON "
            "value on stdout ([shapes](json.md), [examples](json-examples.md)); progress and "
            "messages go to stderr.",
            118,
        ),
        *(_command(path, command) for path, command in _leaves("dbsync", root)),
    ]
    return "\n\n".join(parts) + "\n"


def _leaves(path: str, command: Any) -> Iterator[tuple[str, Any]]:
    """Yield every command that does something: a group counts if it may be called alone."""
    children = getattr(command, "commands", {})
    if not children or (path != "dbsync" and command.invoke_without_command):
        yield path, command
    for name, child in children.items():
        if not child.hidden:
            yield from _leaves(f"{path} {name}", child)


def _command(path: str, command: Any) -> str:
    params = [param for param in command.params if not getattr(param, "hidden", False)]
    arguments = [_metavar(param) for param in params if param.param_type_name == "argument"]
    options = [_row(param) for param in params if param.param_type_name == "option"]
    usage = " ".join([path, *arguments, *(["[OPTIONS]"] if options else [])])
    table = ["| option | default | |", "|---|---|---|", *options] if options else []
    described = [
        f"- `{_metavar(param)}`: {_cell(param.help)}"
        for param in params
        if param.param_type_name == "argument" and getattr(param, "help", None)
    ]
    blocks = [f"## {path}", _cell(command.help), f"```\n{usage}\n```", *["\n".join(described)]]
    return "\n\n".join(block for block in [*blocks, "\n".join(table)] if block)


def _row(param: Any) -> str:
    names = ", ".join(f"`{name}`" for name in [*param.opts, *param.secondary_opts])
    value = "" if param.is_flag else f" `{_metavar(param)}`"
    shown = param.default if isinstance(param.default, (int, float, str)) else None
    default = "" if shown is None or shown is False or shown == "" else f"`{shown}`"
    return f"| {names}{value} | {default} | {_cell(param.help)} |"


def _metavar(param: Any) -> str:
    if param.metavar or param.param_type_name == "argument":
        return str(param.metavar or param.name.upper())
    return KINDS.get(param.type_descriptor.annotation, "TEXT")


# Metrics ---------------------------------------------------------------------------------------


def metrics_page() -> str:
    """Return the page of all metrics, with the rules for alerts of deploy/alerts.yaml."""
    rows = [
        f"| `{metric.name}` | {metric.unit} | {', '.join(metric.labels)} | {_cell(metric.text)} |"
        for metric in METRICS
    ]
    rules = (DOCS.parent / "deploy" / "alerts.yaml").read_text(encoding="utf-8")
    parts = [
        "# Metrics",
        NOTICE,
        textwrap.fill(
            "`GET /metrics` of `dbsync serve` returns the state of the databases in Prometheus' "
            "text format, behind the same token as [the API](api.md). A scrape connects to every "
            "database and reads a few rows of its ledger; it compares no data. Scrapes within "
            f"{CACHE_SECONDS:g} seconds of each other get the same values. A serverless database "
            "does not sleep while it is scraped.",
            118,
        ),
        "Every metric is a gauge: it can go down. One whose value is not known is absent; the "
        "primary has none of a standby.",
        "\n".join(["| metric | unit | labels | meaning |", "|---|---|---|---|", *rows]),
        "## Let Prometheus scrape it",
        "```yaml\n# prometheus.yml\nscrape_configs:\n  - job_name: dbsync\n    scrape_interval: "
        "1m\n    authorization: {credentials_file: /etc/prometheus/dbsync-token}\n"
        '    static_configs: [{targets: ["127.0.0.1:8000"]}]\nrule_files: [alerts.yaml]\n```',
        "## Rules for alerts",
        "A copy of `deploy/alerts.yaml`. The second one also notices that "
        "`dbsync serve`, or its machine, has stopped.",
        f"```yaml\n{rules}```",
    ]
    return "\n\n".join(parts) + "\n"


# Decisions -------------------------------------------------------------------------------------


def decisions_page() -> str:
    """Return the list of all decisions, by the titles of their pages."""
    rows = []
    for path in sorted((DOCS / "decisions").glob("0*.md")):
        number, title = path.read_text(encoding="utf-8").splitlines()[0][2:].split(" ", 1)
        rows.append(f"| {number} | [{title}]({path.name}) |")
    parts = [
        "# Decisions",
        NOTICE,
        "Half a page each for what was worth arguing about: the context, what was decided, and "
        "what follows from it.",
        "\n".join(["| | |", "|---|---|", *rows]),
    ]
    return "\n\n".join(parts) + "\n"


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


def main() -> None:
    """Write the pages and name those that changed."""
    for path, text in pages().items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            sys.stdout.write(f"{path.name} written\n")


if __name__ == "__main__":
    main()
