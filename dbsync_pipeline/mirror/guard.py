"""Whether a plan may be carried out: one pure function over the final plan and the policy.

Every refusal says what was found, names rows by key and never by value, and gives the complete
command that allows this plan.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from dbsync_pipeline.dialects.table import RowKey
from dbsync_pipeline.mirror import remedies
from dbsync_pipeline.mirror.ledger import Term
from dbsync_pipeline.mirror.outside import Orphans
from dbsync_pipeline.policy import Policy
from dbsync_pipeline.text import count

FIRST_KEYS = 5
"""The number of keys that a refusal names."""

_ALL_ROWS = "--max-change-fraction 1"


@dataclass(frozen=True)
class Risk:
    """Local writes of the target that the plan would change or delete: how many, the first keys.

    `unattributable` is true if the writer cannot be determined: the models, or the engine, compute
    other digests of a row than at the last publish.
    """

    rows: int = 0
    keys: tuple[RowKey, ...] = ()
    unattributable: bool = False


@dataclass(frozen=True)
class TablePlan:
    """What would happen to one table: the rows of both sides now, and rows to change."""

    table: str
    source_rows: int
    target_rows: int
    insert: int
    update: int
    delete: int
    risk: Risk = field(default_factory=Risk)

    @property
    def empty(self) -> bool:
        """Whether nothing would change."""
        return not (self.insert or self.update or self.delete)

    @property
    def lost(self) -> int:
        """Rows of the target that would be changed or deleted."""
        return self.update + self.delete


@dataclass(frozen=True)
class Plan:
    """A sync, completely decided, with nothing written.

    `known` is true if the target was published to. `unknown` is the number of the target's state if
    the source should know that state and does not. `returning` is true if the target is the
    configured primary while another database is the primary. `hidden` has (database, table) for
    every table of which that side may not show or accept all rows. `left_out` are the tables that
    are not part of the sync. `takes_next_term` is true in a failback: the target takes the next
    term with the publish, so its present term is no obstacle. `passes_on` is false if the source
    knows that another database is the primary, and has not exactly what it received. `orphans` are
    foreign keys that would not hold; a sync does not look for them before it publishes. `verb` is
    the command that carries the plan out.
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
    passes_on: bool = True
    orphans: tuple[Orphans, ...] = ()
    verb: str = "sync"

    @property
    def empty(self) -> bool:
        """Whether nothing would change in any table."""
        return all(table.empty for table in self.tables.values())


@dataclass(frozen=True)
class Finding:
    """One guard's refusal: the guard, its table if it is about one, the facts, and the remedy."""

    guard: str
    table: str | None
    found: str
    remedy: str


@dataclass(frozen=True)
class _Objection:
    """A finding before its remedy is complete: the fix, and the option that overrides the guard."""

    guard: str
    table: str | None
    found: str
    remedy: str = ""
    option: str | None = None


def review(plan: Plan, policy: Policy) -> tuple[Finding, ...]:
    """Return the objection of every guard to the plan; empty if it may be carried out."""
    objections = [objection for guard in GUARDS for objection in guard(plan, policy)]
    options = _options(plan, policy, {objection.option for objection in objections})
    return tuple(
        Finding(
            objection.guard,
            objection.table,
            objection.found,
            objection.remedy + (_command(plan, options) if objection.option else ""),
        )
        for objection in objections
    )


def _options(plan: Plan, policy: Policy, missing: set[str | None]) -> list[str]:
    """The options of the command that allows the plan: those already given, and the missing."""
    given = {
        "--partial": policy.partial and bool(plan.left_out),
        "--overwrite": policy.overwrite,
        _ALL_ROWS: policy.max_change_fraction >= 1,
    }
    options = [option for option in given if given[option] or option in missing]
    return options if _ALL_ROWS in options else options + _limits(policy)


def _limits(policy: Policy) -> list[str]:
    """The limits of a mass change that differ from the defaults."""
    usual, limits = Policy(), []
    if policy.max_change_fraction != usual.max_change_fraction:
        limits.append(f"--max-change-fraction {policy.max_change_fraction}")
    if policy.max_change_rows != usual.max_change_rows:
        limits.append(f"--max-change-rows {policy.max_change_rows}")
    return limits


def _same_database(plan: Plan, policy: Policy) -> Iterator[_Objection]:
    """Both names lead to one database."""
    if plan.same_database:
        yield _Objection(
            "same database",
            None,
            f"{plan.source} and {plan.target} are the same database",
            f"fix DBSYNC_{plan.target.upper()}_URL",
        )


def _hidden_rows(plan: Plan, policy: Policy) -> Iterator[_Objection]:
    """A table of which the mirror may not see every row."""
    for database, table in plan.hidden:
        yield _Objection(
            "hidden rows",
            table,
            f"row-level security on {database} may hide rows of {table} from the role that the "
            "mirror uses",
            f"give the role of {database} BYPASSRLS, or use the owner of the table without FORCE "
            "ROW LEVEL SECURITY; on SQL Server, UNMASK and no filter predicate",
        )


def _older_source(plan: Plan, policy: Policy) -> Iterator[_Objection]:
    """A source that does not know the target's state: restored from a backup, or older."""
    if plan.unknown is None or plan.empty or policy.overwrite:
        return
    # a source with a lower term must become the primary: the guard of terms cannot be overridden
    behind = plan.target_term is not None and plan.target_term.n > _term_number(plan.source_term)
    discard = (
        f"to discard what only {plan.target} has: {remedies.promote_anyway(plan.source)}"
        if behind
        else ""
    )
    yield _Objection(
        "older source",
        None,
        f"{plan.target} has state {plan.unknown}, which {plan.source} does not know: "
        f"{plan.source} was restored from a backup, or is an older standby",
        f"{remedies.bring_up(plan.source, plan.target)}; {discard}",
        None if behind else "--overwrite",
    )


def _term(plan: Plan, policy: Policy) -> Iterator[_Objection]:
    """A source with a lower term, one that follows another primary of the same term, or one that
    was the primary before.

    It would overwrite newer data with older, or publish what the primary never had.
    """
    source, target = plan.source_term, plan.target_term
    if plan.takes_next_term:
        return
    if source and not (plan.passes_on or plan.empty or policy.overwrite):
        yield _Objection(
            "term",
            None,
            f"{plan.source} knows that {source.primary} is the primary (term {source.n}), and has "
            "rows that it did not receive from it",
            f"`dbsync sync --source {source.primary} --target {plan.target}`; ",
            option="--overwrite",
        )
    elif target is None:
        return
    elif target.n > _term_number(source) or _rivals(plan.source, source, target):
        yield _Objection(
            "term",
            None,
            f"according to {plan.target}, {target.primary} is the primary (term {target.n}), but "
            f"{plan.source} only knows term {_term_number(source)}",
            _update_term(plan, target),
        )
    elif _overwrites_primary(plan, source, target) and not policy.overwrite:
        yield _Objection(
            "term",
            None,
            f"{plan.target} is the primary (term {target.n}): what the application wrote there "
            "would be lost",
            option="--overwrite",
        )


def _term_number(term: Term | None) -> int:
    return 0 if term is None else term.n


def _rivals(name: str, source: Term | None, target: Term) -> bool:
    """Whether the source follows another primary of the same term than the target does."""
    return (
        source is not None and source.n == target.n and source.primary not in (target.primary, name)
    )


def _overwrites_primary(plan: Plan, source: Term | None, target: Term) -> bool:
    return target.primary == plan.target and source == target and not plan.empty


def _update_term(plan: Plan, target: Term) -> str:
    """The remedy that gives the source the target's term.

    A source that is itself the primary of that term was restored, or its promotion did not end.
    """
    if target.primary != plan.source:
        return (
            f"make {plan.source} a copy of the primary first: `dbsync failback` if it is the "
            f"configured primary, else "
            f"`dbsync sync --source {target.primary} --target {plan.source}`"
        )
    if plan.unknown is not None:
        return (
            f"{remedies.bring_up(plan.source, plan.target)}; to discard what only {plan.target} "
            f"has: {remedies.promote_anyway(plan.source)}"
        )
    return f"`dbsync promote {plan.source}` completes the promotion that was interrupted"


def _unknown_target(plan: Plan, policy: Policy) -> Iterator[_Objection]:
    """A target that was never published to and has rows of its own."""
    has_rows = any(table.target_rows for table in plan.tables.values())
    differing = [table for table in plan.tables.values() if not table.empty]
    if plan.known or policy.overwrite or not has_rows or not differing:
        return
    counts = ", ".join(
        f"{table.table} ({table.lost} of its {count(table.target_rows, 'row')} at risk)"
        for table in differing
    )
    yield _Objection(
        "unknown target",
        None,
        f"{plan.target} was never published to, has rows, and differs from {plan.source} in "
        f"{counts}",
        option="--overwrite",
    )


def _local_writes(plan: Plan, policy: Policy) -> Iterator[_Objection]:
    """Rows that were written on the target since its last publish and would be lost."""
    if not plan.known or policy.overwrite:
        return
    for table in plan.tables.values():
        if table.risk.rows:
            keys = ", ".join("/".join(map(str, key)) for key in table.risk.keys)
            more = ", …" if table.risk.rows > len(table.risk.keys) else ""
            yield _Objection(
                "local writes",
                table.table,
                f"{_written(plan, table.risk)}: up to {count(table.risk.rows, 'row')} would be "
                f"changed or deleted, with keys {keys}{more}",
                option="--overwrite",
            )


def _written(plan: Plan, risk: Risk) -> str:
    if not risk.unattributable:
        return f"rows of {plan.target} were written since its last publish"
    return (
        f"whether rows of {plan.target} were written since its last publish cannot be determined, "
        "since columns were removed from the models or have another type, the table's key is "
        "another one or is gone, or the engine has another version"
    )


def _mass_change(plan: Plan, policy: Policy) -> Iterator[_Objection]:
    """More rows would be changed or deleted than the limits allow, or a table would be emptied."""
    for table in plan.tables.values():
        limit = max(policy.max_change_rows, int(policy.max_change_fraction * table.target_rows))
        emptied = (
            table.target_rows > 0 and table.source_rows == 0 and policy.max_change_fraction < 1
        )
        if table.lost > limit or emptied:
            source = (
                "the source's table is empty"
                if table.source_rows == 0
                else f"the source has {count(table.source_rows, 'row')}"
            )
            yield _Objection(
                "mass change",
                table.table,
                f"{source}, and {table.delete} of the {count(table.target_rows, 'row')} on "
                f"{plan.target} would be deleted and {table.update} changed",
                option=_ALL_ROWS,
            )


def _partial(plan: Plan, policy: Policy) -> Iterator[_Objection]:
    """A sync of some tables only, which the settings do not allow."""
    if plan.left_out and not policy.partial and not plan.empty:
        yield _Objection(
            "partial",
            None,
            f"without {', '.join(plan.left_out)} {plan.target} would not be consistent: its tables "
            f"would be of different states of {plan.source}",
            "sync all tables, or ",
            "--partial",
        )


def _command(plan: Plan, options: Sequence[str]) -> str:
    """The command that carries out exactly this plan, whatever the guards object."""
    if plan.returning:
        limits = [option for option in options if option.startswith("--max-change")]
        return remedies.failback(plan.target, limits)
    tables = [f"--table {shlex.quote(table)}" for table in plan.tables] if plan.left_out else []
    command = [
        f"dbsync {plan.verb}",
        f"--source {plan.source}",
        f"--target {plan.target}",
        *tables,
        *options,
    ]
    return f"if this is what you want: `{' '.join(command)}`"


def _outside(plan: Plan, policy: Policy) -> Iterator[_Objection]:
    """Rows that refer to a table that is not mirrored, and that lacks what they refer to."""
    for each in plan.orphans:
        yield _Objection(
            "foreign key",
            each.table,
            f"{count(each.values, 'value')} of {each.table} ({', '.join(each.columns)}) would not "
            f"be in {each.parent} of {plan.target}, which is not mirrored",
            f"give {each.parent} on {plan.target} the rows that {plan.source} has there, or take "
            "the table into the models",
        )


GUARDS: tuple[Callable[[Plan, Policy], Iterator[_Objection]], ...] = (
    _same_database,
    _hidden_rows,
    _term,
    _older_source,
    _unknown_target,
    _local_writes,
    _mass_change,
    _partial,
    _outside,
)
