"""Make the configured primary the primary again, while nobody can write to the current one.

The configured primary records the next term with the publish, the current one in the transaction
that blocks its writers, and the others right after. The term counts once the current primary has
recorded it, so a failback that is interrupted before that hands nothing over.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from dbsync_pipeline.dialects.contract import Dialect
from dbsync_pipeline.dialects.table import RowKey
from dbsync_pipeline.errors import DbsyncError, SettingsError, Unavailable
from dbsync_pipeline.mirror import outcome
from dbsync_pipeline.mirror.database import Database, databases
from dbsync_pipeline.mirror.failover import term
from dbsync_pipeline.mirror.failover.observe import Observation, answers, standing
from dbsync_pipeline.mirror.failover.promote import older, unknown_states
from dbsync_pipeline.mirror.failover.run import sync_all_tables
from dbsync_pipeline.mirror.ledger import Ledger, Publish, TableResult, Term
from dbsync_pipeline.mirror.model import Model
from dbsync_pipeline.mirror.rescue.read import rescued_keys
from dbsync_pipeline.mirror.sync.session import Observer, Session
from dbsync_pipeline.policy import Policy
from dbsync_pipeline.settings import Settings
from dbsync_pipeline.text import count

_NAMED_KEYS = 20
"""How many keys a text names; all of them are in the JSON and in the rescue tables."""


@dataclass(frozen=True)
class Failback:
    """The configured primary is the primary again. The names of the fields are those of the JSON.

    `rescued` has, by table, the keys of its rows that were `deleted` and `replaced`: rows that only
    it had, and rows that differed. `missing` has the databases that did not record the term, with
    the reason.
    """

    primary: str
    former: str
    term: Term
    publication: Publish
    rescued: Mapping[str, Mapping[str, Sequence[RowKey]]]
    missing: Mapping[str, str]

    @property
    def note(self) -> str:
        """The failback as text: what was done, and what a person has to do."""
        lines = [
            f"{self.primary} is the primary again ({self.term}), equal to {self.former}; "
            "point the application to it"
        ]
        for table, changes in self.rescued.items():
            lines += [
                f"table {table}: {count(len(keys), 'row')} {change}, with keys {_first_keys(keys)}"
                for change, keys in changes.items()
                if keys
            ]
        if self.rescued:
            lines.append(f"they are kept: `dbsync rescue show {self.publication.run_id}`")
        lines += [f"{name} did not record the term: {why}" for name, why in self.missing.items()]
        return "\n".join(lines)


def failback(
    settings: Settings,
    model: Model,
    run_id: str,
    *,
    policy: Policy | None = None,
    observe: Observer | None = None,
    watch: Callable[[Session], None] | None = None,
) -> Failback:
    """Sync the configured primary from the current primary, and make it the primary, while writers
    to the current one wait.

    Rows that only the configured primary had go into its rescue tables. If a call is interrupted
    before the current primary recorded the term, nothing is handed over and a second call does all
    of it again. Raises SettingsError if the configured primary is already the primary, Refused if
    there is no majority, if the current primary does not know a state that another standby holds,
    or if a guard refuses, Busy if writers keep the locks, and what a database reports.
    """
    among = {database.name: database for database in databases(settings)}
    current = term.standing(list(among.values()), settings)
    _require_possible(settings, current)
    former, target = among[current.primary], among[settings.primary]
    others = {name: database for name, database in among.items() if database is not target}
    if lacking := unknown_states(others, former.name, settings.connect_seconds):
        raise older(former.name, lacking, "failback")
    new = Term(current.highest + 1, target.name, after=former.name)
    allowed = (policy or settings.policy).model_copy(update={"overwrite": True})
    publish = _publish_fenced(settings, model, run_id, former, target, new, allowed, observe, watch)
    new = _settled(target, new)
    rest = [
        database
        for name, database in others.items()
        if name in current.taken and database is not former
    ]
    missing = {**current.silent, **term.give(new, rest, settings.connect_seconds)}
    _require_majority(target.name, len(among), missing)
    rescued = rescued_keys(target, model, run_id)
    return Failback(target.name, former.name, new, publish, rescued, missing)


def _publish_fenced(
    settings: Settings,
    model: Model,
    run_id: str,
    former: Database,
    target: Database,
    new: Term,
    policy: Policy,
    observe: Observer | None,
    watch: Callable[[Session], None] | None,
) -> Publish:
    """Sync `target` from `former`, which becomes a standby, while its writers wait."""
    with former.connect(f"dbsync run {run_id}") as fence:
        # before the source's snapshot: what writers committed is in it, and later ones wait
        fence.begin(model.tables, wait_seconds=settings.lock_seconds)
        # no waiting for a server that starts: writers are blocked meanwhile
        session = Session(
            former.at_once,
            target.at_once,
            model,
            run_id=run_id,
            settings=settings,
            policy=policy,
            observe=observe,
            fence=fence,
            new_term=new,
        )
        publish = sync_all_tables(session, model, watch)
        _become_standby(fence, target, publish, replace(new, after=None))
        outcome.commit(
            fence,
            former,
            lambda again: Ledger(again).of_run(f"kept-{run_id}") is not None,
            operation="failback",
        )
    return publish


def _require_majority(name: str, databases: int, missing: Mapping[str, str]) -> None:
    have, needed = databases - len(missing), term.majority(databases)
    if have < needed:
        raise term.no_majority("failback", name, have, needed, missing)


def back_note(seen: Sequence[Observation], settings: Settings) -> str | None:
    """Return what a person has to know if the configured primary answers while another database is
    the primary; else None.
    """
    current = standing(seen, settings)
    if current.primary == settings.primary or not answers(seen, settings.primary):
        return None
    return (
        f"{settings.primary} answers again, but {current.primary} is the primary ({current.term}): "
        f"syncs from {settings.primary} are refused. Make sure that no application writes to "
        f"{settings.primary}; `dbsync failback` makes it the primary again (docs/failover.md)"
    )


def _require_possible(settings: Settings, current: term.Standing) -> None:
    name = settings.primary
    if name in current.silent:
        remedy = f"start {name} first"
        raise Unavailable(current.silent[name], operation="failback", database=name, remedy=remedy)
    needed = term.majority(len(current.taken) + len(current.silent))
    if len(current.taken) < needed:
        raise term.no_majority("failback", name, len(current.taken), needed, current.silent)
    if current.primary == name:
        raise SettingsError(
            f"{name} is already the primary",
            operation="failback",
            database=name,
            remedy=f"`dbsync promote {name}` finishes the promotion that was interrupted"
            if current.pending
            else None,
        )


def _become_standby(fence: Dialect, primary: Database, publish: Publish, new: Term) -> None:
    """Record in the former primary's ledger that it equals the new primary, as if it had received
    that publish.

    Without that record everything written there since its own last publish would count as local
    writes from now on.
    """
    ledger = Ledger(fence)
    with primary.at_once.connect() as dialect:
        source = Ledger(dialect)
        identity = source.identity()
        for name in publish.tables:
            ledger.keep_digests(publish.number, name, source.digests(name))
    unchanged = {
        name: TableResult(table.rows, 0, 0, 0, 0, table.digest, 0.0, table.digest)
        for name, table in publish.tables.items()
    }
    ledger.record(
        replace(
            publish,
            run_id=f"kept-{publish.run_id}",
            source=publish.target,
            target=publish.source,
            tables=unchanged,
            seconds={},
        ),
        identity,
    )
    ledger.take_term(new)


def _settled(primary: Database, new: Term) -> Term:
    """Record on the new primary that its term counts by itself now; if that fails, the former
    primary's ledger still proves it.
    """
    with (
        contextlib.suppress(DbsyncError),
        primary.connect() as dialect,
        dialect.doing("settle the term"),
        dialect.connection.begin(),
    ):
        Ledger(dialect).settle_term()
    return replace(new, after=None)


def _first_keys(keys: Sequence[RowKey]) -> str:
    shown = ", ".join("/".join(map(str, key)) for key in keys[:_NAMED_KEYS])
    return f"{shown}, …" if len(keys) > _NAMED_KEYS else shown
