"""Opens the store: one folder with an SQL database and a folder of raw traces."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import event, exc

from farm.errors import SchemaMismatch, StoreUnavailable

DATABASE_NAME = "farm.sqlite"
MIGRATIONS = Path(__file__).parent / "migrations"
HEAD = "0006"
"""The schema revision that this version of the farm writes; a test compares it with Alembic's."""

BUSY_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True, eq=False)
class Store:
    """An open store."""

    folder: Path
    engine: sa.Engine

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """Write: all or nothing; the write lock is taken at the start.

        Raises:
            StoreUnavailable: locked for too long, full, read-only or damaged.
        """
        with self._connected(write=True) as connection:
            yield connection

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """Read one consistent state; never waits for a writer and never holds one up.

        Raises:
            StoreUnavailable: it cannot be read, or is damaged.
        """
        with self._connected(write=False) as connection:
            yield connection

    @contextmanager
    def _connected(self, *, write: bool) -> Iterator[sa.Connection]:
        try:
            with (
                self.engine.connect().execution_options(write=write) as connection,
                connection.begin(),
            ):
                yield connection
        except exc.DBAPIError as error:
            raise _unavailable(self.folder, error) from error

    def close(self) -> None:
        """Let go of the database."""
        self.engine.dispose()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_store(folder: Path, *, read_only: bool = False) -> Store:
    """Open a store folder, making or upgrading it where needed.

    Args:
        folder: `.farm` by default on the command line.
        read_only: change nothing: neither make it nor upgrade it.

    Raises:
        StoreUnavailable: it cannot be made, opened or written.
        SchemaMismatch: a newer farm wrote it, or an older one and it may not be upgraded.
    """
    path = folder / DATABASE_NAME
    if read_only and not path.is_file():
        raise StoreUnavailable(
            f"there is no store at {str(folder)!r}",
            hint="'farm run' makes one; or name it with --store",
        )
    if not read_only:
        _make_folder(folder)
    store = Store(folder, _engine(path, read_only=read_only))
    try:
        _upgrade(store, read_only=read_only)
    except BaseException:
        store.close()
        raise
    return store


def _make_folder(folder: Path) -> None:
    try:
        (folder / "traces").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreUnavailable(
            f"cannot make the store {str(folder)!r}: {error.strerror}",
            hint="name a writable folder with --store",
        ) from error


def _engine(path: Path, *, read_only: bool) -> sa.Engine:
    engine = sa.create_engine(
        sa.URL.create("sqlite", database=str(path)), connect_args={"timeout": BUSY_TIMEOUT_S}
    )

    @event.listens_for(engine, "connect")
    def _configure(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None  # we begin ourselves, below
        if not read_only:
            connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("PRAGMA foreign_keys=ON")

    @event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        # A writer takes the lock at once: upgrading a read in WAL mode fails without waiting.
        write = connection.get_execution_options().get("write")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


def _upgrade(store: Store, *, read_only: bool) -> None:
    found = _revision(store)
    if found == HEAD:
        return
    if read_only and (found or "") < HEAD:
        raise SchemaMismatch(
            f"the store {str(store.folder)!r} has the older schema {found}, {HEAD} is needed",
            hint="the next 'farm run' on it upgrades it",
        )
    if found is not None and found > HEAD:
        raise SchemaMismatch(
            f"the store {str(store.folder)!r} has schema {found}, this farm knows {HEAD}",
            hint="install the newer farm that wrote it, or name another store with --store",
        )
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    with store.transaction() as connection:
        if _revision_in(connection) == HEAD:  # another process was faster
            return
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _revision(store: Store) -> str | None:
    with store.reading() as connection:
        return _revision_in(connection)


def _revision_in(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.execute(
        sa.text("SELECT version_num FROM alembic_version")
    ).scalar()
    return revision


def _unavailable(folder: Path, error: exc.DBAPIError) -> StoreUnavailable:
    text = str(error.orig)
    hints = {
        "locked": "another process holds it; try again when that is done",
        "full": "make room on the disk, then run the same command again",
        "disk I/O": "check the disk and its free space, then run the same command again",
        "readonly": "name a writable folder with --store",
        "unable to open": "name a writable folder with --store",
        "not a database": "this file is no farm store; name another with --store",
        "malformed": "the database is damaged; restore it from a backup",
    }
    hint = next((hint for word, hint in hints.items() if word in text), "")
    return StoreUnavailable(f"the store {str(folder)!r} cannot be used: {text}", hint=hint)
