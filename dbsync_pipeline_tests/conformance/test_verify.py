"""`verify` trusts no ledger: it says what differs now, row by row, and changes nothing."""

from __future__ import annotations

from dbsync_pipeline.mirror.database import Database
from dbsync_pipeline.mirror.verify import verify
from dbsync_pipeline_tests.worlds import MODEL, content, execute, prepare, small_world, sync, user

users, documents = (MODEL.table(name).sa for name in ("users", "documents"))


def test_equal_databases_are_found_equal_and_every_difference_is_named(
    pair: tuple[Database, Database],
) -> None:
    source, target = pair
    prepare(source, small_world())
    sync(source, target)
    assert all(verdict.equal for verdict in verify(source, target, MODEL))
    execute(
        target,
        users.update().where(users.c.id == 3).values(name="x"),
        (users.insert(), [user(700)]),
        documents.delete().where(documents.c.size_bytes == 7),
    )
    before = content(target)
    found = {verdict.table: verdict for verdict in verify(source, target, MODEL)}
    assert (found["users"].differing, found["documents"].differing) == (2, 1)
    assert {str(key[0]) for key in found["users"].keys} == {"3", "700"}
    assert found["chats"].equal and not found["users"].equal
    assert content(target) == before
