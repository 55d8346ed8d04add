"""The base of all values that are written to disk or shown, and the families they form."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationError


class Frozen(BaseModel):
    """A value: it cannot change, and refuses fields that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def check_name(text: str) -> str:
    """A name that can also be that of a folder.

    Raises:
        ValueError: if it leads elsewhere, is hidden, or cannot be seen or printed.
    """
    if not text.isprintable() or set(text) & set("/\\") or text.strip(" .") != text:
        raise ValueError("not a name: no slashes, no dots or spaces at its ends, on one line")
    return text


def members(family: Any) -> dict[str, Any]:
    """Kind → class of a family of strategies, in the order of its union."""
    return {cls.model_fields["kind"].default: cls for cls in get_args(get_args(family)[0])}


def first_fault(problem: ValidationError) -> str:
    """Where the first fault is, and what is wrong: `runs.0.name: Field required`."""
    fault = problem.errors()[0]
    return f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}"


def first_faults(problem: ValidationError, depth: int) -> str:
    """The first few faults in one sentence; fields' names start at `depth`."""
    return "; ".join(_fault(error, depth) for error in problem.errors()[:5])


def _fault(error: Any, depth: int) -> str:
    """One fault: which field, what is wrong, what was given."""
    where = ".".join(str(part) for part in error["loc"][depth:])
    if error["type"] == "extra_forbidden":
        return f"there is no field {where}"
    wrong = error["msg"].removeprefix("Value error, ")
    if not where:  # a rule between fields names them itself
        return wrong
    text = repr(error["input"])
    given = text if len(text) <= 60 else text[:57] + "..."
    return f"{where}: {wrong} (got {given})"
