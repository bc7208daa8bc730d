"""The two databases behind one face: SQLite in a file, PostgreSQL by URL."""

import fcntl
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SCHEMA = (Path(__file__).parent / "schema.sql").read_text("utf-8")
# How long a write waits for another process's write, in seconds.
PATIENCE = 5.0
ADVISORY_LOCK = 0x6B756265  # "kube"


class StoreError(Exception):
    """The store cannot be read or written; the text says why and what to do."""


class Database:
    """Connections of one thread each, opened when first needed and again after a failure.

    A subclass opens them and says how its database differs.
    """

    failure: type[Exception]
    serial_key: str
    placeholder = "?"
    begin = "BEGIN"
    # Seconds between looks for what other processes stored.
    poll = 0.02
    where: str

    def __init__(self) -> None:
        self._local = threading.local()

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        """A write transaction: committed at the end, durable when this returns.

        Raises StoreError, and then nothing of it has been kept.
        """
        try:
            connection = self._first(lambda found: found.execute(self.begin))[0]
            try:
                yield _Statements(connection, self.placeholder)
                connection.execute("COMMIT")
            except BaseException:
                self._rollback(connection)
                raise
        except self.failure as error:
            self.close()
            raise StoreError(self._advice(error)) from None

    def read(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """The rows of one query. Raises StoreError."""
        try:
            rows: list[tuple[Any, ...]] = self._first(lambda found: _Statements(
                found, self.placeholder).execute(sql, *parameters).fetchall())[1]
            return rows
        except self.failure as error:
            self.close()
            raise StoreError(self._advice(error)) from None

    def close(self) -> None:
        """Close this thread's connection; the next use opens another."""
        connection, self._local.connection = getattr(self._local, "connection", None), None
        if connection is not None:
            try:
                connection.close()
            except self.failure:
                pass  # it is given up because it failed

    def changed(self) -> bool:
        """Whether anything may have been written by others since this thread last asked."""
        return True

    def lock(self) -> Any:
        """Wait until this process is the only sender; the lock dies with whoever holds it.

        Returns a handle that keeps the lock as long as it is referenced. Raises StoreError.
        """
        raise NotImplementedError

    def check(self, lock: Any) -> None:
        """Make sure that a lock is still held. Raises StoreError when it was lost."""

    def _first(self, use: Callable[[Any], Any]) -> tuple[Any, Any]:
        """This thread's connection, and what its first use gave: another one if it had died."""
        known = getattr(self._local, "connection", None)
        connection = self._connection()
        try:
            return connection, use(connection)
        except self.failure:
            if connection is not known:
                raise
            self.close()
            connection = self._connection()
            return connection, use(connection)

    def _connection(self) -> Any:
        connection = getattr(self._local, "connection", None)
        if connection is None or self._local.process != os.getpid():
            connection = self._local.connection = self._open()
            self._local.process = os.getpid()
        return connection

    def _open(self) -> Any:
        raise NotImplementedError

    def _rollback(self, connection: Any) -> None:
        try:
            connection.execute("ROLLBACK")
        except self.failure:
            self.close()  # the database rolled back by itself, or is gone

    def _advice(self, error: Exception) -> str:
        raise NotImplementedError

    def _schema(self) -> list[str]:
        return [statement for statement in SCHEMA.replace(
            "SERIAL_KEY", self.serial_key).split(";\n") if statement.strip()]


class _Statements:
    """A connection that speaks this project's SQL, in which `?` stands for a parameter."""

    def __init__(self, connection: Any, placeholder: str) -> None:
        self._connection = connection
        self._placeholder = placeholder

    def execute(self, sql: str, *parameters: Any) -> Any:
        """A cursor with the statement's rows and row count."""
        return self._connection.execute(sql.replace("?", self._placeholder), parameters)


class SQLite(Database):
    """One file in write-ahead mode, synced at every commit.

    file: its path; the lock is a file beside it.
    """

    failure = sqlite3.Error
    serial_key = "INTEGER PRIMARY KEY"
    begin = "BEGIN IMMEDIATE"

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file = file
        self.where = str(file)

    def changed(self) -> bool:
        """See Database.changed. Source: sqlite.org/pragma.html#pragma_data_version."""
        (version,), = self.read("PRAGMA data_version")
        known, self._local.version = getattr(self._local, "version", None), version
        return bool(known != version)

    def lock(self) -> Any:
        """See Database.lock."""
        try:
            handle = open(f"{self.file}.sender", "w")
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as error:
            raise StoreError(self._advice(error)) from None
        return handle

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.file, timeout=PATIENCE, isolation_level=None)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            # NORMAL can lose the last commits at a power failure.
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA journal_size_limit = 67108864")
            for statement in self._schema():
                connection.execute(statement)
        except BaseException:
            connection.close()
            raise
        return connection

    def _advice(self, error: Exception) -> str:
        todo = "free space on that disk" if "full" in str(error) else (
            "check the disk, and that the service may write the file and its directory")
        return f"the store {self.where} cannot be used: {error}; {todo}, or set AUDIT_DATABASE"


class PostgreSQL(Database):
    """A PostgreSQL database, for fleets of receivers that share one outbox.

    url: postgresql://user:password@host/database; needs the extra [postgres].
    """

    serial_key = "BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY"
    placeholder = "%s"
    poll = 0.1  # every look is a query, and may cross a network

    def __init__(self, url: str) -> None:
        super().__init__()
        import psycopg
        self._connect = psycopg.Connection.connect
        self.failure = psycopg.Error
        self.url = url
        self.where = f"at {psycopg.conninfo.conninfo_to_dict(url).get('host', 'PostgreSQL')}"

    def lock(self) -> Any:
        """See Database.lock. Source: PostgreSQL manual, advisory locks of a session."""
        try:
            handle = self._connect(self.url, autocommit=True, connect_timeout=5)
            try:
                handle.execute("SELECT pg_advisory_lock(%s)", (ADVISORY_LOCK,))
            except BaseException:
                handle.close()
                raise
        except self.failure as error:
            raise StoreError(self._advice(error)) from None
        return handle

    def check(self, lock: Any) -> None:
        """See Database.check: the lock went with its session if the server restarted."""
        try:
            lock.execute("SELECT 1")
        except self.failure as error:
            raise StoreError(self._advice(error)) from None

    def _open(self) -> Any:
        connection = self._connect(self.url, autocommit=True, connect_timeout=5)
        try:
            connection.execute("SET synchronous_commit = on")
            # Two processes that create the same table at once collide; the lock lines them up.
            connection.execute("BEGIN")
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (ADVISORY_LOCK + 1,))
            for statement in self._schema():
                connection.execute(statement)
            connection.execute("COMMIT")
        except BaseException:
            connection.close()
            raise
        return connection

    def _advice(self, error: Exception) -> str:
        first = str(error).strip().partition("\n")[0]
        return (f"the store {self.where} cannot be used: {first}; check that PostgreSQL runs and "
                f"that AUDIT_DATABASE names it")


def is_postgresql(url: str) -> bool:
    """Whether AUDIT_DATABASE names a PostgreSQL database, and not a file of SQLite."""
    return url.startswith(("postgresql://", "postgres://"))


def open_database(url: str) -> Database:
    """The database that AUDIT_DATABASE names: a path, or postgresql://…"""
    if is_postgresql(url):
        return PostgreSQL(url)
    return SQLite(Path(url))
