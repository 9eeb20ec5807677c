"""What is known of the call that is being answered: its log line and its span say it."""

from contextvars import ContextVar
from typing import Any

_FACTS: ContextVar[dict[str, Any] | None] = ContextVar("call_facts", default=None)


def begin_facts() -> dict[str, Any]:
    """Begin with nothing known; return what `note_facts` adds to from now on, in this call."""
    facts: dict[str, Any] = {}
    _FACTS.set(facts)
    return facts


def note_facts(**facts: Any) -> None:
    """Add to what is known; outside of a call nobody would read it."""
    known = _FACTS.get()
    if known is not None:
        known.update(facts)
