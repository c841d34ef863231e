"""The run folder: what a run was asked, what it ran on, what it has finished, and all that it measured.

    config.yaml        the resolved configuration
    environment.json   versions, devices, commit, and the facts that stages add
    stages/NAME.json   one for each finished stage: its result, its seconds, the sizes that it left the records at
    metrics.jsonl      one line for each logged step;  tensorboard/NAME/ holds the same as events
    *.jsonl            records, in the order in which stages appended them
    checkpoints/NAME   see o1coder_jax/checkpoint.py
    summary.json       what the run came to
    underway/NAME/     what an unfinished stage keeps for its next attempt, such as trees that have ended
    hosts/NNN/         stages and records of process NNN, for every process but the first

A stage is finished when its file is in `stages/`, and not before. Whatever an unfinished stage appended is taken
back when the run is opened or the stage is begun again, so a run that was killed goes on as if it had not been.
With several processes the stage's file of process 0 decides, and it is written last, behind a barrier.

    with Run.open("runs/tiny", config) as run:
        if run.stage("001-sft") is None:
            with run.stage_scope("001-sft") as stage:
                stage.log(step, loss=loss)
                stage.append("process.jsonl", rows)
                stage.result["validity"] = 0.8
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import jax

from o1coder_jax import config as configuration
from o1coder_jax.errors import UserError
from o1coder_jax.hosts import barrier
from train import environment, progress
from train.run_files import AppendedFile, Events, Lock, clean, read_json, to_line, truncate, write_json, writing
from train.run_opening import CONFIG, ENVIRONMENT, prepare
from train.run_stages import FinishedStage, committed_sizes, finished_stages, host_folder, read_records

METRICS = "metrics.jsonl"
_RECORD_NAMES = "records.json"  # which files are ours to take back, also when the stage that made them is unfinished
_POLL_SECONDS = 0.1
_STAGE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclasses.dataclass(frozen=True)
class Hosts:
    """Who takes part in a run.

    Attributes:
      process: this process's index; process 0 writes what is of the whole run.
      processes: how many there are.
      barrier: waits for all of them; takes a name that is the same on all.
      patience_seconds: that a file which process 0 has written may take to be seen here; 0 does not look.
    """

    process: int
    processes: int
    barrier: Callable[[str], None]
    patience_seconds: float = 0.0

    @classmethod
    def of_jax(cls) -> Hosts:
        """As JAX was started."""
        return cls(jax.process_index(), jax.process_count(), barrier, patience_seconds=90.0)

    def see(self, path: Path) -> None:
        """Waits until this process sees a file that process 0 has written: network file systems show it late."""
        deadline = time.monotonic() + self.patience_seconds
        while self.process and self.patience_seconds and not path.exists():
            if time.monotonic() > deadline:
                raise UserError(f"process {self.process} does not see {path}; give all hosts the same run folder")
            time.sleep(_POLL_SECONDS)


class Run:
    """An open run folder. One process of each index at a time may hold it; `close` lets it go."""

    def __init__(self, folder: Path, hosts: Hosts, lock: Lock):
        """Use `Run.open`."""
        self.folder = folder
        self.process = hosts.process
        self.hosts = hosts
        self._own = host_folder(folder, hosts.process)
        self._lock = lock
        self._under_way: str | None = None

    @classmethod
    def open(
        cls,
        folder: str | Path,
        config: Any,
        *,
        fresh: bool = False,
        may_differ: Collection[str] = (),
        hosts: Hosts | None = None,
    ) -> Run:
        """Creates a run folder, or reopens it to go on.

        Args:
          folder: where it is, or shall be.
          config: the dataclass that describes the run.
          fresh: remove what the folder holds of an earlier run.
          may_differ: dotted keys that may change between two sessions of a run, as `iterations`; a section's name
            stands for all its keys.
          hosts: who takes part; as JAX was started when None.

        Raises:
          UserError: another process holds the folder, it was made with another configuration, or it is damaged.
        """
        folder, hosts = Path(folder), hosts or Hosts.of_jax()
        if hosts.process:
            hosts.barrier(f"prepare {folder}")
            hosts.see(folder / CONFIG)
        own = host_folder(folder, hosts.process)
        with writing(own):
            own.mkdir(parents=True, exist_ok=True)
        lock = Lock(own)
        try:
            run = cls(folder, hosts, lock)
            if hosts.process == 0:
                prepare(folder, configuration.to_dict(config), _usual(type(config)), fresh, may_differ)
                run.add_facts(**environment.describe())
                hosts.barrier(f"prepare {folder}")
            run._roll_back()
        except BaseException:
            lock.close()
            raise
        return run

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Lets another process have the folder."""
        self._lock.close()

    # What is finished.

    def stage(self, name: str) -> dict[str, Any] | None:
        """The result of a finished stage; None when it is still to be done."""
        return self.results().get(name)

    def results(self) -> dict[str, dict[str, Any]]:
        """The results of all finished stages, in order."""
        return {stage.name: stage.result for stage in finished_stages(self.folder)}

    def read(self, name: str) -> Iterator[Any]:
        """The rows that finished stages appended to a record file, on all hosts, host by host."""
        return read_records(self.folder, name)

    def checkpoint(self, name: str) -> Path:
        """Where the checkpoint of that name is, or shall be."""
        return self.folder / "checkpoints" / name

    def rewind(self, name: str) -> list[str]:
        """Makes a finished stage, and all after it, unfinished: their rows are taken back, checkpoints are kept.

        Returns:
          The names of those after it.
        """
        stages = finished_stages(self.folder)
        if name not in [stage.name for stage in stages]:
            names = ", ".join(stage.name for stage in stages)
            raise UserError(f"{self.folder} has no finished stage {name}; it has {names or 'none'}")
        self.hosts.barrier(f"rewind {name}")
        later = [stage.name for stage in stages]
        later = later[later.index(name) + 1 :]
        if self.process == 0:
            while stages:  # from the last, so that a kill in between leaves a shorter but sound run
                (self.folder / "stages" / f"{stages[-1].name}.json").unlink()
                if stages.pop().name == name:
                    break
        self.hosts.barrier(f"rewound {name}")
        self._roll_back()
        return later

    # What is under way.

    @contextlib.contextmanager
    def stage_scope(self, name: str) -> Iterator[Stage]:
        """Runs one stage: takes back what an unfinished attempt left, and commits the stage if its body ends well.

        Raises:
          UserError: the stage is finished already, or the disk is full; earlier stages are untouched.
        """
        if not _STAGE_NAME.fullmatch(name):
            raise ValueError(f"{name!r} cannot name a stage: letters, digits, dot, dash and underscore can")
        if self.stage(name) is not None:
            raise UserError(f"stage {name} of {self.folder} is finished; rewind it to do it again")
        if self._under_way is not None:
            raise RuntimeError(f"stage {self._under_way} is under way; {name} would take its rows back")
        self._roll_back()
        stage, self._under_way = Stage(self, name), name
        try:
            yield stage
            self._commit(stage)
        except BaseException:
            # The events only repeat metrics.jsonl; an error in closing them must not hide the one under way.
            with contextlib.suppress(OSError, UserError):
                stage.close()
            raise
        finally:
            self._under_way = None

    def _commit(self, stage: Stage) -> None:
        sizes = self._sizes() | stage.sync()
        stage.close()
        done = FinishedStage(
            name=stage.name,
            order=max((one.order for one in finished_stages(self.folder)), default=-1) + 1,  # a file may be gone
            seconds=round(stage.seconds, 3),
            result=clean(stage.result),
            sizes=sizes,
            processes=self.hosts.processes,
        )
        path = self._own / "stages" / f"{stage.name}.json"
        if self.process:
            write_json(path, dataclasses.asdict(done))
        self.hosts.barrier(f"finish {stage.name}")
        if self.process == 0:
            write_json(path, dataclasses.asdict(done))
        self.hosts.barrier(f"finished {stage.name}")
        self.hosts.see(self.folder / "stages" / path.name)
        self._forget_underway({stage.name})

    def _sizes(self) -> dict[str, int]:
        return committed_sizes(self.folder, self.process)

    def _roll_back(self) -> None:
        stages = finished_stages(self.folder)
        sizes, last = self._sizes(), stages[-1].name if stages else "nothing"
        for name in {*self._record_names(), *sizes}:
            truncate(self._own / name, sizes.get(name, 0), owner=last)
        done = {stage.name for stage in stages}
        with writing(self._own):
            for path in (self._own / "tensorboard").glob("*"):
                if path.name not in done:
                    shutil.rmtree(path)
            for path in (self._own / "stages").glob("*.json"):
                if path.stem not in done:
                    path.unlink()  # of a process that got further than process 0
        self._forget_underway(done)

    def _forget_underway(self, done: Collection[str]) -> None:
        with writing(self._own):
            for name in done:
                shutil.rmtree(self._own / "underway" / name, ignore_errors=True)

    def _record_names(self) -> list[str]:
        path = self._own / _RECORD_NAMES
        return read_json(path) if path.exists() else []

    def _new_record(self, name: str) -> AppendedFile:
        if Path(name).name != name or not name.endswith(".jsonl"):
            raise ValueError(f"{name!r} cannot name a record file: a bare name that ends in .jsonl can")
        if name not in self._record_names():
            write_json(self._own / _RECORD_NAMES, [*self._record_names(), name])
        return AppendedFile(self._own / name)

    # What is told of the run as a whole.

    def add_facts(self, **facts: Any) -> None:
        """Adds JSON values to `environment.json`, as `isolation="namespaces"`; what changed stands in `earlier`."""
        if self.process:
            return
        path = self.folder / ENVIRONMENT
        old = read_json(path) if path.exists() else {}
        facts = clean(facts)
        changed = {key: old[key] for key in facts if key in old and old[key] != facts[key]}
        earlier = old.pop("earlier", [])
        write_json(path, {**old, **facts, "earlier": [*earlier, *([changed] if changed else [])]})

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Writes `summary.json`."""
        if self.process == 0:
            write_json(self.folder / "summary.json", dict(summary))


class Stage:
    """A stage under way; `Run.stage_scope` makes it. What is put in `result` is kept when the stage ends well."""

    def __init__(self, run: Run, name: str):
        self.run = run
        self.name = name
        self.result: dict[str, Any] = {}
        self._began = time.monotonic()
        self._files: dict[str, AppendedFile] = {}
        self._events = Events(run.folder / "tensorboard" / name)

    @property
    def seconds(self) -> float:
        """Wall clock since the stage began."""
        return time.monotonic() - self._began

    def log(self, step: int, **scalars: Any) -> None:
        """Writes numbers of one step to `metrics.jsonl` and TensorBoard; on process 0 only, elsewhere it does nothing.

        Numbers that are not finite are null in the one and themselves in the other.
        """
        if self.run.process:
            return
        row = {"stage": self.name, "step": step, "seconds": round(self.seconds, 3)}
        if clash := row.keys() & scalars.keys():
            raise ValueError(f"{sorted(clash)} are set by the run; give the metric another name")
        numbers = {name: value.item() if hasattr(value, "item") else value for name, value in scalars.items()}
        self.append(METRICS, [row | numbers])
        self._events.add(step, {name: float(value) for name, value in numbers.items() if value is not None})

    def append(self, name: str, rows: Iterable[Any]) -> int:
        """Appends rows (JSON values, or what has a `to_json`) to a record file, as `process.jsonl`; returns how many.

        They are on disk when this returns, and count when the stage is finished.
        """
        if name not in self._files:
            self._files[name] = self.run._new_record(name)
        lines = [to_line(row) for row in rows]
        self._files[name].append(b"".join(lines))
        return len(lines)

    def append_shared(self, name: str, rows: Sequence[Any]) -> int:
        """Appends rows that every process has alike, once; returns how many."""
        return len(rows) if self.run.process else self.append(name, rows)

    def underway(self, name: str) -> Path:
        """Where this process may keep a file for the next attempt, should this one be killed; gone with the commit."""
        return self.run._own / "underway" / self.name / name

    def underway_elsewhere(self, name: str) -> list[Path]:
        """The files of that name that other processes keep, or kept in an attempt with more of them."""
        folders = [self.run.folder, *sorted((self.run.folder / "hosts").glob("*"))]
        paths = [folder / "underway" / self.name / name for folder in folders if folder != self.run._own]
        return [path for path in paths if path.exists()]

    def progress(self, total: int, description: str = "") -> contextlib.AbstractContextManager[progress.Progress]:
        """A progress display: `with stage.progress(200, "trees") as bar: bar.advance()`."""
        text = f"{self.name} {description}".strip()
        return progress.bar(total, text, silent=self.run.process != 0)

    def sync(self) -> dict[str, int]:
        """Makes all that was appended last; returns the sizes of the files in bytes."""
        return {name: file.sync() for name, file in self._files.items()}

    def close(self) -> None:
        """Closes the files."""
        files, self._files = self._files, {}
        for file in files.values():
            file.close()
        self._events.close()


def _usual(kind: type) -> dict[str, Any]:
    """The configuration without any setting; nothing of a kind that has to be given some."""
    given = any(
        field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        for field in dataclasses.fields(kind)
    )
    return {} if given else configuration.to_dict(kind())
