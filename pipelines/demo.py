"""`make demo`: a synthetic world from its log to answers over gRPC, on this machine.

Runs `pipelines/configs/synthetic.toml` into `runs/demo`, serves the bundle from another process,
asks it as a client would, records a watch, asks again, and stops it.
"""

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from pipelines import run as run_pipeline
from pipelines.config import load_settings
from pipelines.environment import errors_in_a_line, set_up
from recsys.errors import RecsysError
from recsys.state_files import read_states
from serving.client import RecommenderClient, watch

CONFIG = Path(__file__).with_name("configs") / "synthetic.toml"
OUT = Path("runs/demo")
RECSYS = (sys.executable, "-m", "pipelines.cli")
NUM_USERS = 3
NUM_ITEMS = 5


def main() -> None:
    """Run everything and print the answers; the same again goes on where it was stopped."""
    set_up()
    with errors_in_a_line():
        _demonstrate()


def _demonstrate() -> None:
    started = time.monotonic()
    console = Console(highlight=False)
    settings = load_settings(CONFIG)
    run_pipeline.main(settings, OUT, announce=console.print)
    _import_state()
    titles = _titles()
    with serve_bundle(OUT / "bundle", OUT / "store") as (address, ready_line):
        console.print(f"\n{ready_line}")
        with RecommenderClient(address, timeout_seconds=5) as client:
            for state in islice(read_states(OUT / "state"), NUM_USERS):
                _ask(console, client, state.user_id, titles)
            _ask(console, client, "a user whom nobody has seen", titles)
            _watch_and_ask_again(console, client, state.user_id, titles)
    console.print(f"\nserver stopped; report: {OUT / 'report.html'}")
    console.print(f"demo done in {time.monotonic() - started:.0f} s")


@contextmanager
def serve_bundle(bundle: Path, store: Path) -> Iterator[tuple[str, str]]:
    """Run `recsys serve` in a process of its own; give its address and the line it printed.

    Raises:
        RecsysError: It ended before it was ready.
    """
    arguments = ["serve", "--bundle", str(bundle), "--store", str(store), "--port", "0"]
    with (store.parent / "server.log").open("w") as log:
        server = subprocess.Popen(
            [*RECSYS, *arguments], stdout=subprocess.PIPE, stderr=log, text=True
        )
        try:
            line = server.stdout.readline().strip() if server.stdout else ""
            if " on " not in line:
                raise RecsysError(f"the server did not start; its log is {log.name}")
            yield line.partition(" on ")[2].partition(",")[0], line
        finally:
            server.terminate()
            server.communicate(timeout=30)


def _import_state() -> None:
    paths = ["--state", str(OUT / "state"), "--store", str(OUT / "store"), "--json"]
    subprocess.run([*RECSYS, "state", "import", *paths], check=True, stdout=subprocess.DEVNULL)


def _titles() -> dict[str, tuple[str, Sequence[str]]]:
    table = pq.read_table(OUT / "prepared" / "catalogue" / "items.parquet")
    rows = table.select(["item_id", "title", "topics"]).to_pylist()
    return {row["item_id"]: (row["title"], row["topics"] or []) for row in rows}


def _ask(console: Console, client: RecommenderClient, user_id: str, titles: dict[str, Any]) -> Any:
    answer = client.recommend_items(user_id, page_size=NUM_ITEMS)
    table = Table(title=f"next for {user_id}", title_justify="left")
    for name in ("item", "title", "topics", "expected seconds", "source"):
        table.add_column(name, justify="right" if name == "expected seconds" else "left")
    for item in answer.items:
        title, topics = titles[item.item_id]
        seconds = item.expected_watch_duration.ToMilliseconds() / 1000
        table.add_row(item.item_id, title, ", ".join(topics), f"{seconds:.1f}", item.source)
    console.print(table)
    return answer


def _watch_and_ask_again(
    console: Console, client: RecommenderClient, user_id: str, titles: dict[str, Any]
) -> None:
    first = client.recommend_items(user_id, page_size=1).items[0].item_id
    client.record_events(user_id, [watch(first, 600_000, event_id=f"demo-{first}")])
    console.print(f"\n{user_id} watches {first} for ten minutes; asked again:")
    _ask(console, client, user_id, titles)


if __name__ == "__main__":
    main()
