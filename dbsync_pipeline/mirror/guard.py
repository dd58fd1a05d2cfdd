"""Whether a plan may be carried out: one pure function over the final plan and the policy.

Every refusal says what was found, names rows by key and never by value, and gives the command that lets the plan through: this one, with
all the options that it needs.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from dbsync_pipeline.dialects.table import RowKey
from dbsync_pipeline.mirror.ledger import Term
from dbsync_pipeline.policy import Policy
from dbsync_pipeline.text import count

FIRST_KEYS = 5
"""So many keys are named in a refusal."""


@dataclass(frozen=True)
class Risk:
    """Rows of the target that were written by somebody else and that the plan would change or delete: how many, and the first keys.

    `untold` says that nobody can tell who wrote them: the models, or the engine, make other digests of a row than at the last publish.
    """

    rows: int = 0
    keys: tuple[RowKey, ...] = ()
    unattributable: bool = False


@dataclass(frozen=True)
class TablePlan:
    """What would happen to one table: rows of both sides now, and rows to insert, update and delete."""

    table: str
    source_rows: int
    target_rows: int
    insert: int
    update: int
    delete: int
    risk: Risk = field(default_factory=Risk)

    @property
    def empty(self) -> bool:
        return not (self.insert or self.update or self.delete)


@dataclass(frozen=True)
class Plan:
    """A sync, all decided and nothing written.

    `known` says that a publish stands on the target, and `strange` is the number of its state when the source should know it and does
    not. Terms count the primaries that there have been. `returning` says that the target is the configured primary, and another one is
    the primary. `hidden` are (database, table) of which that side may not show or take all rows. `left_out` are the tables that are not part of the sync.
    `takes_next_term` is true in a failback: the target takes the next term with the publish, so its present term is no obstacle.
    """

    source: str
    target: str
    same_database: bool
    known: bool
    tables: Mapping[str, TablePlan]
    unknown: int | None = None
    source_term: Term | None = None
    target_term: Term | None = None
    returning: bool = False
    hidden: tuple[tuple[str, str], ...] = ()
    left_out: tuple[str, ...] = ()
    takes_next_term: bool = False

    @property
    def empty(self) -> bool:
        return all(table.empty for table in self.tables.values())


@dataclass(frozen=True)
class Finding:
    """One guard's refusal: which guard, the table where it is about one, what was found, and what lets it through."""

    guard: str
    table: str | None
    found: str
    remedy: str


@dataclass(frozen=True)
class _Objection:
    """A finding in the making: what mends it, and where a person may let it pass, by which option, which is told behind that."""

    guard: str
    table: str | None
    found: str
    remedy: str = ""
    option: str | None = None


def review(plan: Plan, policy: Policy) -> tuple[Finding, ...]:
    """Everything that speaks against the plan; empty when it may be carried out."""
    objections = [objection for guard in GUARDS for objection in guard(plan, policy)]
    given = {
        "--partial": policy.partial and bool(plan.left_out),
        "--overwrite": policy.overwrite,
        "--max-change-fraction 1": policy.max_change_fraction >= 1,
    }
    needed = [
        option
        for option in given
        if given[option] or any(one.option == option for one in objections)
    ]
    if "--max-change-fraction 1" not in needed:
        needed += _limits(policy)
    return tuple(
        Finding(
            one.guard,
            one.table,
            one.found,
            one.remedy + (_through(plan, needed) if one.option else ""),
        )
        for one in objections
    )


def _limits(policy: Policy) -> list[str]:
    usual = Policy()
    fraction, rows = policy.max_change_fraction, policy.max_change_rows
    return [f"--max-change-fraction {fraction}"] * (fraction != usual.max_change_fraction) + [
        f"--max-change-rows {rows}"
    ] * (rows != usual.max_change_rows)


def _same_database(plan: Plan, policy: Policy) -> Iterator[_Objection]:
    if plan.same_database:
        yield _Objection(
            "same database",
            None,
            f"{plan.source} and {plan.target} are one and the same database",
            f"mend DBSYNC_{plan.target.upper()}_URL",
        )


def _hidden_rows(plan: Plan, policy: Policy) -> Iterator[_Objection]:
    for database, table in plan.hidden:
        yield _Objection(
            "hidden rows",
            table,
            f"row-level security on {database} may hide rows of {table} from the role that the mirror uses",
            f"give the role of {database} BYPASSRLS, or use the owner of the table without FORCE ROW LEVEL SECURITY; on SQL Server, UNMASK "
            "and no filter predicate",
        )


def _older_source(plan: Plan, policy: Policy) -> Iterator[_Objection]:
    """A source restored from an old backup, or an older standby, does not know the number of the target's last publish."""
    if plan.unknown is not None and not plan.empty and not policy.overwrite:
        # one whose term is behind has to become the primary: the guard of terms cannot be waived
        behind = plan.target_term is not None and plan.target_term.n > (
            plan.source_term.n if plan.source_term else 0
        )
        lost = (
            f"if what {plan.target} has more is to go: {promote_anyway(plan.source)}"
            if behind
            else ""
        )
        yield _Objection(
            "older source",
            None,
            f"{plan.target} holds state {plan.unknown}, which {plan.source} does not know: {plan.source} was restored from a "
            "backup, or is an older standby",
            f"{bring_up(plan.source, plan.target)}; {lost}",
            None if behind else "--overwrite",
        )


def _term(plan: Plan, policy: Policy) -> Iterator[_Objection]:
    """A source of an older reign, and one that follows another primary of the same one, would carry the past into the present."""
    ours, theirs = plan.source_term, plan.target_term
    if theirs is None or plan.takes_next_term:
        return
    mine = 0 if ours is None else ours.n
    rival = (
        ours is not None
        and ours.n == theirs.n
        and ours.primary not in (theirs.primary, plan.source)
    )
    if theirs.n > mine or rival:
        yield _Objection(
            "term",
            None,
            f"{plan.target} says that {theirs.primary} is the primary (term {theirs.n}), and {plan.source} is of term {mine}",
            _to_term(plan, theirs),
        )
    elif (
        theirs.primary == plan.target and ours == theirs and not plan.empty and not policy.overwrite
    ):
        yield _Objection(
            "term",
            None,
            f"{plan.target} is the primary (term {theirs.n}): what the application wrote there would be lost",
            option="--overwrite",
        )


def _to_term(plan: Plan, theirs: Term) -> str:
    """What gives the source the term that the target knows. One that should have it itself was restored, or is not yet promoted."""
    if theirs.primary != plan.source:
        return (
            f"make {plan.source} a copy of the primary first: `dbsync failback` where it is the configured primary, else "
            f"`dbsync sync --source {theirs.primary} --target {plan.source}`"
        )
    if plan.unknown is not None:
        return f"{bring_up(plan.source, plan.target)}; if what {plan.target} has more is to go: {promote_anyway(plan.source)}"
    return f"`dbsync promote {plan.source}` ends the promotion that was cut off"


def _unknown_target(plan: Plan, policy: Policy) -> Iterator[_Objection]:
    if (
        plan.known
        or policy.overwrite
        or not any(table.target_rows for table in plan.tables.values())
    ):
        return
    differing = [table for table in plan.tables.values() if not table.empty]
    if differing:
        counts = ", ".join(
            f"{table.table} ({table.update + table.delete} of its {count(table.target_rows, 'row')} at risk)"
            for table in differing
        )
        yield _Objection(
            "unknown target",
            None,
            f"{plan.target} was never published to, holds rows, and differs from {plan.source} in {counts}",
            option="--overwrite",
        )


def _foreign_writes(plan: Plan, policy: Policy) -> Iterator[_Objection]:
    if not plan.known or policy.overwrite:
        return
    for table in plan.tables.values():
        if table.risk.rows:
            keys = ", ".join("/".join(map(str, key)) for key in table.risk.keys)
            more = ", …" if table.risk.rows > len(table.risk.keys) else ""
            yield _Objection(
                "foreign writes",
                table.table,
                f"{_written(plan, table.risk)}: up to {count(table.risk.rows, 'row')} would be at risk of being "
                f"changed or deleted, with keys {keys}{more}",
                option="--overwrite",
            )


def _written(plan: Plan, risk: Risk) -> str:
    if risk.unattributable:
        why = "columns were taken out of the models or got another type, or the engine is of another version"
        return f"whether somebody has written to {plan.target} since its last publish cannot be told: {why}"
    return f"somebody has written to {plan.target} since its last publish"


def _shrunken_source(plan: Plan, policy: Policy) -> Iterator[_Objection]:
    for table in plan.tables.values():
        lost = table.update + table.delete
        limit = max(policy.max_change_rows, int(policy.max_change_fraction * table.target_rows))
        emptied = (
            table.target_rows > 0 and table.source_rows == 0 and policy.max_change_fraction < 1
        )
        if lost > limit or emptied:
            what = (
                "the source's table is empty"
                if table.source_rows == 0
                else f"the source has {count(table.source_rows, 'row')}"
            )
            yield _Objection(
                "shrunken source",
                table.table,
                f"{what}, and {table.delete} of the {count(table.target_rows, 'row')} on {plan.target} would be "
                f"deleted and {table.update} changed",
                option="--max-change-fraction 1",
            )


def _partial(plan: Plan, policy: Policy) -> Iterator[_Objection]:
    if plan.left_out and not policy.partial and not plan.empty:
        yield _Objection(
            "partial",
            None,
            f"without {', '.join(plan.left_out)} {plan.target} would be mixed: its tables would be of different states of {plan.source}",
            "sync all tables, or ",
            "--partial",
        )


def failback(name: str, options: Sequence[str] = ()) -> str:
    """The remedy for the configured primary, of that name, that came back when another one was the primary."""
    return f"`{' '.join(['dbsync failback', *options])}` makes {name} the primary again and keeps its rows in the rescue tables"


def bring_up(older: str, newer: str) -> str:
    """The remedy for a database that lacks what another one holds, as after a restore from a backup."""
    return (
        f"`dbsync sync --source {newer} --target {older} --overwrite` brings {older} up to {newer} and keeps what it has alone in the "
        "rescue tables"
    )


def promote_anyway(name: str) -> str:
    """What makes a database the primary though others hold what it lacks."""
    return f"`dbsync promote {name} --overwrite --yes`"


def _through(plan: Plan, options: Sequence[str]) -> str:
    """The command that carries out the plan whatever is said against it, and no more than that plan."""
    if plan.returning:
        return failback(
            plan.target, [option for option in options if option.startswith("--max-change")]
        )
    chosen = [f"--table {shlex.quote(table)}" for table in plan.tables] if plan.left_out else []
    command = [
        "dbsync sync",
        f"--source {plan.source}",
        f"--target {plan.target}",
        *chosen,
        *options,
    ]
    return f"if this is what you want: `{' '.join(command)}`"


GUARDS: tuple[Callable[[Plan, Policy], Iterator[_Objection]], ...] = (
    _same_database,
    _hidden_rows,
    _term,
    _older_source,
    _unknown_target,
    _foreign_writes,
    _shrunken_source,
    _partial,
)
