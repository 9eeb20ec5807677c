"""Write every user's state as of the bundle's data_until, for a server's store to import."""

from collections.abc import Iterator
from pathlib import Path

from pipelines.paths import RunPaths
from recsys.data.prepared import Prepared, load_prepared
from recsys.data.user_states import user_states
from recsys.progress import progress
from recsys.settings import RecsysSettings
from recsys.state import UserState
from recsys.state_files import write_states


def main(settings: RecsysSettings, paths: RunPaths, out: Path) -> None:
    """Write the state directory into `out`."""
    prepared = load_prepared(paths.prepared)
    write_states(out, states_until(prepared), prepared.data_until)


def states_until(prepared: Prepared) -> Iterator[UserState]:
    """Yield the state of each user as of data_until."""
    with progress("users' states") as task:
        for shard in prepared.shards:
            for state in user_states(prepared, shard):
                yield state.as_of(prepared.data_until)
                task.advance()
