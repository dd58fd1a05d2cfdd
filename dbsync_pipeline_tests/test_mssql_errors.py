"""What URLs and drivers' errors mean, without a server."""

from __future__ import annotations

import re
import sys

import pytest
import sqlalchemy as sa

from dbsync_pipeline.dialects.mssql import drivers, errors
from dbsync_pipeline.errors import (
    Busy,
    DatabaseError,
    SettingsError,
    Starting,
    Transient,
    Unavailable,
)
from dbsync_pipeline.mirror.database import Database


@pytest.mark.parametrize(
    ("given", "drivername", "encrypt"),
    [
        ("mssql://u:p@host/db", "mssql+mssqlpython", "yes"),
        ("mssql+mssqlpython://u:p@host/db?encrypt=no", "mssql+mssqlpython", None),
        ("mssql+pyodbc://u:p@host/db", "mssql+pyodbc", "yes"),
        ("mssql+pyodbc://?odbc_connect=DSN%3Dx", "mssql+pyodbc", None),
    ],
)
def test_urls_are_completed(given: str, drivername: str, encrypt: str | None) -> None:
    url = drivers.complete_url(
        sa.make_url(given + ("&" if "?" in given else "?") + "consistent_reads=locks")
    )
    assert url.drivername == drivername
    assert url.query.get("Encrypt") == encrypt
    assert "consistent_reads" not in url.query
    if given.startswith("mssql+pyodbc://u"):
        assert "odbc" in str(url.query["driver"]).lower()


@pytest.mark.parametrize("name", ["authentication", "Authentication"])
@pytest.mark.parametrize("driver", ["mssqlpython", "pyodbc"])
def test_entra_authentication_does_not_add_windows_authentication(driver: str, name: str) -> None:
    url = drivers.complete_url(
        sa.make_url(f"mssql+{driver}://@host/db?driver=x&{name}=ActiveDirectoryMSI")
    )
    arguments = url.get_dialect()().create_connect_args(url)[0][0].lower()
    assert (
        arguments.count("authentication=activedirectorymsi") == 1
        and "trusted_connection" not in arguments
    )


def test_the_error_for_an_unknown_driver_lists_the_known_ones() -> None:
    with pytest.raises(SettingsError, match="mssqlpython, pyodbc"):
        drivers.import_driver(sa.make_url("mssql+pymssql://u:p@host/db"))


@pytest.mark.parametrize(
    ("message", "remedy"),
    [
        ("No module named 'mssql_python'", "make install EXTRAS=mssql"),
        (
            "libltdl.so.7: cannot open shared object file: No such file or directory",
            "apt-get install libltdl7",
        ),
        (
            "libodbc.so.2: cannot open shared object file: No such file or directory",
            "apt-get install libodbc2",
        ),
    ],
)
def test_a_missing_library_is_named_with_its_command(message: str, remedy: str) -> None:
    assert re.search(remedy, str(drivers.missing(message)))


def test_the_error_for_a_driver_that_does_not_load_names_the_database() -> None:
    failed = _Native("Failed to load the driver: libodbc.so.2: cannot open shared object file")
    message = str(errors.translate(failed, "azure", "connect"))
    assert message.startswith("connect, database azure: ") and "apt-get install" in message


class _Native(Exception):
    """An error as mssql-python raises it: no number, and a text that depends on the SQLSTATE."""

    def __init__(self, text: str, driver_error: str = "Something") -> None:
        super().__init__(f"Driver Error: {driver_error}; DDBC Error: [Microsoft][SQL Server]{text}")
        self.driver_error = driver_error
        self.ddbc_error = f"[Microsoft][SQL Server]{text}"


class _Odbc(Exception):
    """An error as pyodbc raises it."""

    def __init__(self, text: str, number: int, state: str = "42000") -> None:
        driver = "[Microsoft][ODBC Driver 18 for SQL Server][SQL Server]"
        super().__init__(state, f"[{state}] {driver}{text} ({number}) (SQLExecDirectW)")


SERVER_ERRORS = [
    # number, message of the server, the error it becomes, and what the error says
    (1205, "Transaction (Process ID 52) was deadlocked on lock resources.", Busy, "deadlock"),
    (1222, "Lock request time out period exceeded.", Busy, "has a lock on the tables"),
    (3960, "Snapshot isolation transaction aborted due to update conflict.", Busy, "snapshot"),
    (3961, "Snapshot isolation transaction failed in database 'app'.", Busy, "snapshot"),
    (701, "There is insufficient system memory in resource pool 'x'.", Busy, "short of memory"),
    (802, "There is insufficient memory available in the buffer pool.", Busy, "short of memory"),
    (1204, "The instance cannot obtain a LOCK resource at this time.", Busy, "short of memory"),
    (8645, "A timeout occurred while waiting for memory resources.", Busy, "short of memory"),
    (8651, "the requested memory grant was not available", Busy, "short of memory"),
    (10936, "The request limit for the elastic pool is 90.", Busy, "short of memory"),
    (40613, "Database 'app' on server 'x' is not currently available.", Starting, "in a minute"),
    (40197, "The service has encountered an error. Error code 40540.", Starting, "in a minute"),
    (40501, "The service is currently busy. Retry after 10 seconds.", Starting, "in a minute"),
    (49918, "Cannot process request. Not enough resources to process request.", Starting, "busy"),
    (49919, "Too many create or update operations in progress.", Starting, "busy"),
    (49920, "Too many operations in progress for subscription.", Starting, "busy"),
    (10928, "Resource ID : 1. The request limit for the database is 90.", Starting, "busy"),
    (10929, "the server is currently too busy to support requests greater", Starting, "busy"),
    (4221, "long wait on 'HADR_DATABASE_WAIT_FOR_TRANSITION'.", Starting, "busy"),
    (
        42108,
        "Can not connect to the SQL pool since it is paused. The SQL pool is",
        Starting,
        "busy",
    ),
    (921, "Database 'app' has not been recovered yet. Wait and try again.", Starting, "busy"),
    (952, "Database 'app' is in transition. Try the statement later.", Starting, "busy"),
    (976, "is currently not accessible for queries.", Starting, "availability group"),
    (983, "Unable to access availability database 'app'.", Starting, "availability group"),
    (978, "when the application intent is set to read only.", DatabaseError, "ApplicationIntent"),
    (3906, "Failed to update because the database is read-only.", DatabaseError, "READ_WRITE"),
    (9002, "The transaction log for database 'app' is full.", DatabaseError, "transaction log"),
    (40549, "because you have a long-running transaction.", DatabaseError, "transaction log"),
    (40552, "because of excessive transaction log space usage.", DatabaseError, "service tier"),
    (40544, "The database 'app' has reached its size quota.", DatabaseError, "no room"),
    (1105, "Could not allocate space for object 'dbo.users'.", DatabaseError, "no room"),
    (41332, "not supported with memory optimized tables", DatabaseError, "memory-optimised"),
    (10794, "is not supported with memory optimized tables.", DatabaseError, "memory-optimised"),
    (40615, "Cannot open server 'x'. Client with IP address '192.0.2.7'", Unavailable, "firewall"),
    (40914, "Cannot open server 'x'. Client is not allowed to access it.", Unavailable, "firewall"),
    (4060, 'Cannot open database "app" requested. The login failed.', Unavailable, "no such"),
    (18456, "Login failed for user 'x'.", Unavailable, "refused the user"),
    (18470, "Login failed for user 'x'. The account is disabled.", Unavailable, "disabled"),
    (18487, "The password of the account has expired.", Unavailable, "expired"),
    (17142, "the SHUTDOWN is in progress", Unavailable, "connection was lost"),
    (596, "because the session is in the kill state.", Unavailable, "connection was lost"),
]


@pytest.mark.parametrize(("number", "text", "class_", "expected"), SERVER_ERRORS)
def test_an_error_of_the_server_is_recognised_by_both_drivers(
    number: int, text: str, class_: type[Exception], expected: str
) -> None:
    """By its number, in any language, where the driver gives it; by its text otherwise."""
    for error in (_Native(text), _Odbc(text, number), _Odbc("quelque chose", number)):
        translated = errors.translate(error, "azure", "connect")
        assert type(translated) is class_ and expected in str(translated)
        assert "Remedy: " in str(translated)


@pytest.mark.parametrize(
    ("state", "native", "class_", "expected"),
    [
        ("28000", "Invalid authorization specification", Unavailable, "refused the user"),
        ("08S01", "Communication link failure", Unavailable, "connection was lost"),
        ("08001", "Client unable to establish connection", Unavailable, "nothing answers"),
        ("HYT00", "Timeout expired", Unavailable, "in time"),
        ("40001", "Serialization failure", Busy, "deadlock"),
    ],
)
def test_an_error_in_another_language_is_recognised_by_its_sqlstate(
    state: str, native: str, class_: type[Exception], expected: str
) -> None:
    """A login is refused before the session can choose its language."""
    text = "Fehler bei der Anmeldung fuer den Benutzer."
    for error in (_Native(text, native), _Odbc(text, 1, state)):
        translated = errors.translate(error, "azure", "connect")
        assert type(translated) is class_ and expected in str(translated)


def test_two_numbers_in_one_error_are_reported_by_the_more_specific() -> None:
    text = (
        "[28000] [Microsoft][ODBC Driver 18 for SQL Server][SQL Server]Login failed. (18456) "
        '(SQLDriverConnect); [28000] [SQL Server]Cannot open database "x". (4060)'
        " (SQLDriverConnect)"
    )
    error = Exception("28000", text)
    assert "no such database" in str(errors.translate(error, "azure", "connect"))


def test_a_bulk_load_that_the_server_ended_is_not_waited_for() -> None:
    """Its number 4804 arrives in the text of the transient error 40197."""
    text = "(40197): The service has encountered an error. Error code 4804"
    translated = errors.translate(RuntimeError(text), "azure", "stage")
    assert type(translated) is DatabaseError and "mssql+pyodbc://" in str(translated)


@pytest.mark.parametrize(
    "text",
    [
        "Cannot open server 'secret-host' requested by the login. Client with IP address "
        "'192.0.2.7' is not allowed to access the server.",
        "Something new about server 'secret-host' from 192.0.2.7.",
        "Something new while connecting to 'secret-host' from 2001:db8:0:0:1:2:3:4.",
        "Database 'app' on server 'secret-host' is not currently available.",
    ],
)
def test_no_server_name_and_no_client_address_gets_into_a_message(text: str) -> None:
    for error in (_Native(text), _Odbc(text, 1), RuntimeError(text)):
        message = str(errors.translate(error, "azure", "connect"))
        assert not re.search(r"secret-host|192\.0|2001", message)


def test_a_connection_lost_during_a_bulk_load_is_worth_a_retry() -> None:
    lost = RuntimeError(
        "Connection closed: Connection closed by server while reading TDS packet header"
    )
    assert isinstance(errors.translate(lost, "azure", "stage"), Unavailable)


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        (
            "Failed to acquire an Entra ID access token for authentication type 'msi': "
            "ManagedIdentityCredential unavailable.",
            "az login",
        ),
        (
            "SSPI Provider: No credentials were supplied. No Kerberos credentials available "
            "(default cache: FILE:/tmp/krb5cc_0)",
            "kinit",
        ),
    ],
)
def test_a_failed_authentication_names_what_is_missing(text: str, remedy: str) -> None:
    for error in (_Native(text), _Odbc(text, 458752)):
        message = errors.translate(error, "azure", "connect")
        assert (
            isinstance(message, Unavailable)
            and remedy in str(message)
            and "DBSYNC_AZURE_URL" in str(message)
        )


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        (
            "SSL Provider: [error:0A000086:SSL routines::certificate verify failed:unable "
            "to get local issuer certificate]",
            "authority",
        ),
        (
            "SSL Provider: The certificate chain was issued by an authority that is not trusted.",
            "authority",
        ),
        (
            "SSL Provider: [error:0A000086:SSL routines::certificate verify failed:subject "
            "name does not match host name]",
            "Hostname",
        ),
        ("SSL Provider: The target principal name is incorrect.", "HostnameInCertificate"),
        (
            "TLS handshake failed while connecting to 'db': unexpected eof while reading",
            "check that the server of azure runs",
        ),
    ],
)
def test_a_refused_certificate_comes_with_its_remedy(text: str, remedy: str) -> None:
    for error in (_Native(text), _Odbc(text, -1), RuntimeError(text)):
        message = errors.translate(error, "azure", "connect")
        assert isinstance(message, Unavailable) and remedy in str(message)


def test_errors_are_recognised_by_number_and_by_text() -> None:
    deadlock = (
        "Transaction (Process ID 52) was deadlocked on lock resources with another process. "
        "Rerun the transaction."
    )
    for error in (
        _Native(deadlock),
        _Odbc(deadlock, 1205),
        _Odbc("x", 1222),
        _Native("Lock request time out period exceeded."),
    ):
        assert isinstance(errors.translate(error, "azure", "publish"), Busy)
    assert isinstance(
        errors.translate(_Odbc("Snapshot isolation transaction failed", 3961), "azure", "read"),
        Transient,
    )
    plain = errors.translate(_Odbc("Invalid object name 'users'.", 208), "azure", "read")
    assert isinstance(plain, DatabaseError) and plain.cause == "Invalid object name 'users'."
    assert (
        errors.translate(_Native("Invalid object name 'users'."), "azure", "read").cause
        == plain.cause
    )  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (
            "The SELECT permission was denied on the object 'users', database 'app', schema 'dbo'.",
            229,
        ),
        ("CREATE TABLE permission denied in database 'app'.", 262),
        (
            'Cannot find the object "users" because it does not exist or you do not have '
            "permissions.",
            1088,
        ),
        (
            'The specified schema name "dbsync" either does not exist or you do not have '
            "permission to use it.",
            2760,
        ),
        ("User does not have permission to perform this action.", 15247),
        ("must be owner of table users", 33557097),
    ],
)
def test_a_missing_right_names_the_page_that_lists_the_rights(text: str, number: int) -> None:
    for error in (_Native(text), _Odbc(text, number)):
        message = str(errors.translate(error, "azure", "read"))
        assert f"lacks a right: {text}" in message and "docs/security.md" in message


@pytest.mark.parametrize(
    ("text", "number", "expected"),
    [
        (
            "Violation of UNIQUE KEY constraint 'ux'. Cannot insert duplicate key in object "
            "'dbo.users'. The duplicate key value is (a (hidden)@b).",
            2627,
            "Violation of UNIQUE KEY constraint 'ux'. Cannot insert duplicate key in object "
            "'dbo.users'.\nRemedy: where the models",
        ),
        (
            "String or binary data would be truncated in table 'app.dbo.users', column "
            "'name'. Truncated value: 'it's hidden'.",
            2628,
            "in table 'app.dbo.users', column 'name'.",
        ),
        (
            "Conversion failed when converting the nvarchar value 'hidden' to data type int.",
            245,
            "the nvarchar value to data type int.",
        ),
        (
            "The conversion of the varchar value 'hidden' overflowed an INT1 column.",
            244,
            "value overflowed an INT1 column.",
        ),
        (
            "Arithmetic overflow error for data type tinyint, value = 300.",
            220,
            "for data type tinyint.",
        ),
    ],
)
def test_a_message_of_the_server_is_passed_on_without_its_values(
    text: str, number: int, expected: str
) -> None:
    for error in (_Native(text), _Odbc(text, number)):
        message = str(errors.translate(error, "azure", "insert staged"))
        assert expected in message and "hidden" not in message and "300" not in message


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("mssql://sa:hidden@localhost?Encrypt=no", "names no database"),
        ("mssql://sa:hidden@localhost/app?Bogus=1", "an option that the driver does not know"),
        (
            "mssql://sa:hidden@localhost/app?Encrypt=perhaps",
            "a value that the driver does not know",
        ),
        (
            "mssql+pyodbc://sa:hidden@localhost/app?Encrypt=perhaps",
            "a value that the driver does not know",
        ),
        ("mssql+pyodbc://sa:hidden@localhost/app?driver=Nope", "no such ODBC driver"),
        ("mssql+pyodbc:///?odbc_connect=Server%3Dlocalhost%3BPWD%3Dhidden", "no such ODBC driver"),
        ("mssql:///?odbc_connect=Server%3Dlocalhost%3BPWD%3Dhidden", "mssql+pyodbc://"),
        ("mssql://sa:hidden@localhost/app?consistent_reads=lock", "consistent_reads=locks"),
    ],
)
def test_a_wrong_url_is_refused_before_connecting(url: str, expected: str) -> None:
    with pytest.raises(SettingsError) as refusal, Database("azure", sa.make_url(url)).connect():
        pass
    message = str(refusal.value)
    if "needs the system library" in message or (
        sys.platform == "darwin" and "is not installed" in message
    ):
        pytest.skip(message)
    assert expected in message and "database azure" in message
    assert "Remedy: " in message and "hidden" not in message


def test_a_server_without_encryption_has_its_own_error() -> None:
    """With the messages of the two drivers."""
    for error in (
        _Native(
            "Driver Error: Client unable to establish connection; DDBC Error: "
            "[Microsoft]Encryption not supported on SQL Server."
        ),
        _Odbc(
            "[Microsoft][ODBC Driver 18 for SQL Server]Encryption not supported on SQL "
            "Server. (20) (SQLDriverConnect)",
            20,
        ),
    ):
        message = str(errors.translate(error, "azure", "connect"))
        assert (
            "no encrypted connection" in message and "`?Encrypt=no` to DBSYNC_AZURE_URL" in message
        )


def test_an_unknown_connection_error_points_to_the_url() -> None:
    message = str(errors.translate(_Native("Protocol error in TDS stream"), "azure", "connect"))
    assert "DBSYNC_AZURE_URL" in message and "docs/sql-server.md" in message


def test_a_database_without_snapshots_gets_the_statement_that_allows_them() -> None:
    text = (
        "Snapshot isolation transaction failed accessing database 'app' because snapshot "
        "isolation is not allowed in this database."
    )
    for error in (_Native(text), _Odbc(text, 3952)):
        message = str(errors.translate(error, "azure", "snapshot"))
        assert (
            "ALTER DATABASE" in message
            and "ALLOW_SNAPSHOT_ISOLATION ON" in message
            and "consistent_reads=locks" in message
        )
