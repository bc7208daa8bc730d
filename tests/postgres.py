"""A real PostgreSQL server of the tests' own, on a socket of this machine."""

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

import psycopg

from tests.service import free_port


class Postgres:
    """initdb and postgres in a temporary directory; root hands both to the user postgres."""

    def __init__(self) -> None:
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
        if not found:
            raise AssertionError("there is no PostgreSQL server: apt-get install postgresql")
        self.programs = found[-1]
        self.directory = Path(tempfile.mkdtemp(prefix="audit-postgres-"))
        self.port = free_port()
        self.databases = 0
        self.user: str | None = None
        if os.geteuid() == 0:
            self.user = "postgres"
            os.chown(self.directory, pwd.getpwnam("postgres").pw_uid, -1)

    def fresh(self) -> str:
        """The URL of a new, empty database."""
        self.databases += 1
        name = f"audit_{self.databases}"
        address = f"postgresql://postgres@127.0.0.1:{self.port}"
        with psycopg.connect(f"{address}/postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return f"{address}/{name}"

    def start(self) -> "Postgres":
        data = self.directory / "data"
        if not data.exists():
            self._run("initdb", "-D", str(data), "-U", "postgres", "-A", "trust", "-E", "UTF8")
        self._run("pg_ctl", "-D", str(data), "-w", "-l", str(self.directory / "log"), "-o",
                  f"-h 127.0.0.1 -p {self.port} -k {self.directory}", "start")
        return self

    def stop(self) -> None:
        self._run("pg_ctl", "-D", str(self.directory / "data"), "-m", "immediate", "stop")

    def remove(self) -> None:
        shutil.rmtree(self.directory)

    def _run(self, program: str, *words: str) -> None:
        subprocess.run([str(self.programs / program), *words], user=self.user, check=True,
                       stdout=subprocess.DEVNULL, cwd=self.directory)
