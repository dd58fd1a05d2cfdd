"""Texts of the verbs demo, sync, plan, adopt, verify and history."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.markup import escape

from dbsync_pipeline.cli.render.base import (
    MEGA,
    OUT,
    complain,
    good,
    keys,
    numbers,
    proofs,
    say,
    say_skipped,
    successes,
    table,
)
from dbsync_pipeline.output.sync import Adopted, DemoSynced, Listed, Planned, Synced, Verified
from dbsync_pipeline.text import count

if TYPE_CHECKING:
    from dbsync_pipeline.mirror.guard import Finding, Plan
    from dbsync_pipeline.runs.adopt import Adoption
    from dbsync_pipeline.runs.history import Run


def synced(result: Synced) -> None:
    """Print what each run did, or why it failed."""
    for run in result.runs:
        if run.succeeded:
            _success(run)
        else:
            _failure(run)


def _failure(run: Run) -> None:
    outcome = "whether it was published is unknown" if run.unknown else "not published"
    complain(f"{run.target}: {outcome} ({run.status})\n{run.reason or ''}")


def _success(run: Run) -> None:
    seconds = f"{run.seconds:.1f} s" if run.seconds is not None else "?"
    if run.changed:
        shown = table(
            f"{run.source} → {run.target}", "table", ">rows", ">inserted", ">updated", ">deleted"
        )
        for name, counts in run.tables.items():
            changes = numbers(counts.rows, counts.inserted, counts.updated, counts.deleted)
            shown.add_row(escape(name), *changes)
        OUT.print(shown)
        good(
            f"{run.target}: equal to {run.source} ({count(run.changed, 'row')} changed,"
            f" {run.bytes / MEGA:.1f} MB moved, {seconds})"
        )
    else:
        good(
            f"{run.target}: equal to {run.source}, nothing to do"
            f" ({count(run.rows, 'row')} compared in {seconds})"
        )
    if compared := proofs(counts.proof for counts in run.tables.values()):
        say(f"  compared {compared}")


def demo(result: DemoSynced) -> None:
    """Print what was created, what was copied, what it cost, and what to try next."""
    report, request = result.report, result.synced.request
    rows = count(sum(report.rows.values()), "row")
    created = f"created {rows} ({report.bytes / MEGA:.1f} MB)"
    say(f"{request.source}: {created if report.created else f'{rows} are there already'}")
    synced(result.synced)
    if result.ok:
        _after_demo(result)


def _after_demo(result: DemoSynced) -> None:
    request, runs = result.synced.request, result.synced.runs
    changed = sum(run.changed for run in runs)
    if changed == 0 and not result.report.created:
        say(f"\nNothing to do: {', '.join(request.targets)} equal {request.source}.")
    else:
        moved = sum(run.bytes for run in runs) / MEGA
        seconds = sum(run.seconds or 0 for run in runs)
        say(
            f"\nMoved {count(changed, 'row')}, {moved:.1f} MB, to {', '.join(request.targets)}"
            f" in {seconds:.1f} s."
        )
    program = _program()
    say(
        "\nTry next:\n"
        f"  {program} status    what each database holds, and how old it is\n"
        f"  {program} ui        the same in Dagster: materialize, backfill, see the runs\n"
        f"  {program} history   every run so far\n"
        f"Or change a row, see what a sync would do, and sync:\n"
        f"  {result.edit}\n"
        f"  {program} plan\n"
        f"  {program} sync"
    )


def _program() -> str:
    """Return how a person can call this program from the current folder."""
    on_path = shutil.which("dbsync") or not sys.argv[0].endswith("dbsync")
    return "dbsync" if on_path else os.path.relpath(sys.argv[0])


def planned(result: Planned) -> None:
    """Print what a sync would do to each target, and what would stop it."""
    for target, (plan, findings) in successes(result.plans):
        if plan.empty and not findings:
            good(f"{target}: equal to {result.request.source}, nothing to do")
        else:
            _plan(plan, findings)
    say_skipped(result.skipped)
    if result.report is not None:
        say(f"wrote {result.report}")


def _plan(plan: Plan, findings: Sequence[Finding]) -> None:
    shown = table(
        f"{plan.source} → {plan.target}", "table", ">rows", ">insert", ">update", ">delete"
    )
    for name, changes in plan.tables.items():
        counts = numbers(changes.source_rows, changes.insert, changes.update, changes.delete)
        shown.add_row(escape(name), *counts)
    OUT.print(shown)
    _objections(f"{plan.target}: a sync would be refused", findings)


def _objections(what: str, findings: Sequence[Finding]) -> None:
    from dbsync_pipeline.mirror.refusal import by_guard  # which imports the mirror

    for why, remedy in by_guard(findings):
        complain(f"{what}: {why}\nRemedy: {remedy}")


def adopted(result: Adopted) -> None:
    """Print how far each standby was apart, and whether it was taken in."""
    for target, adoption in successes(result.adoptions):
        if adoption.known is not None:
            good(
                f"{target}: taken in already, its last publish is {adoption.known.number}; nothing "
                "was changed (`dbsync plan` shows what differs now)"
            )
            continue
        if adoption.plan is not None:
            _distance(adoption.plan)
        _taken_in(target, adoption)


def _distance(plan: Plan) -> None:
    shown = table(
        f"{plan.source} and {plan.target}",
        "table",
        f">rows of {plan.source}",
        f">of {plan.target}",
        f">only in {plan.source}",
        f">only in {plan.target}",
        ">different",
    )
    for name, apart in plan.tables.items():
        counts = (apart.source_rows, apart.target_rows, apart.insert, apart.delete, apart.update)
        shown.add_row(escape(name), *numbers(*counts))
    OUT.print(shown)


def _taken_in(target: str, adoption: Adoption) -> None:
    _objections(f"{target}: not taken in", adoption.findings)
    if adoption.run is None:
        return
    if adoption.run.succeeded:
        good(
            f"{target}: taken in by publish {adoption.run.number}"
            f" ({count(adoption.run.changed, 'row')} changed, {adoption.run.bytes / MEGA:.1f} MB"
            " moved); local writes are noticed from now on"
        )
    else:
        _failure(adoption.run)


def verified(result: Verified) -> None:
    """Print for each target whether it is equal, and which rows are not."""
    for target, tables in successes(result.verdicts):
        for verdict in tables:
            if not verdict.equal:
                complain(
                    f"{target}: table {verdict.table}: {count(verdict.differing, 'row')} not equal"
                    f" to {result.source}, the first with keys {keys(verdict.keys)}"
                )
        if all(verdict.equal for verdict in tables):
            rows = count(sum(verdict.source_rows for verdict in tables), "row")
            good(f"{target}: equal to {result.source} by SHA-256 ({rows})")


def listed(result: Listed) -> None:
    """Print the runs as a table, and the reasons of those that failed."""
    runs = result.past.runs
    if not runs:
        say("no runs yet: dbsync sync")
        return
    shown = table(
        None,
        "started (UTC)",
        "run",
        "source → target",
        "status",
        ">rows",
        ">changed",
        ">MB",
        ">seconds",
    )
    for run in runs:
        shown.add_row(*_history_row(run))
    OUT.print(shown)
    for run in runs:
        if run.reason:
            complain(f"{run.run_id[:8]}: {run.reason}")


def _history_row(run: Run) -> tuple[str, ...]:
    colour = {"SUCCESS": "green", "FAILURE": "red"}.get(run.status or "", "yellow")
    return (
        f"{run.started_at:%Y-%m-%d %H:%M:%S}",
        run.run_id[:8],
        f"{run.source or '?'} → {run.target or '?'}",
        f"[{colour}]{_status(run)}[/{colour}]",
        *numbers(run.rows, run.changed),
        f"{run.bytes / MEGA:.1f}",
        "" if run.seconds is None else f"{run.seconds:.1f}",
    )


def _status(run: Run) -> str:
    """Return Dagster's status, and the ledger's knowledge where it adds to that."""
    if run.undoes is not None:
        return f"undo of publish {run.undoes}"
    if run.status is None:
        return "published, by its ledger"
    if run.unknown:
        return f"{run.status}, unknown if published"
    return f"{run.status}, but published" if run.published and not run.succeeded else run.status
