"""What commands say: lines for people on standard error, results on standard output."""

import json
import sys
from typing import Any


def print_result(value: dict[str, Any], as_json: bool) -> None:
    """Print a result: for people, or as one JSON object."""
    if as_json:
        print(json.dumps(value))
        return
    from rich.pretty import pprint

    pprint(value, expand_all=True)


def announce(line: str) -> None:
    """Print a line for people."""
    print(line, file=sys.stderr, flush=True)
