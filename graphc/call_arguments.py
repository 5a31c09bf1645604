"""Arguments as users write them: names, and what a function does not take, said in a sentence."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

from graphc.error import NetError, did_you_mean, need

Given = ParamSpec("Given")
Made = TypeVar("Made")


def explained(function: Callable[Given, Made]) -> Callable[Given, Made]:
    """Make wrong arguments of a function a NetError; what its body raises passes through."""

    @functools.wraps(function)
    def checked(*args: Given.args, **kwargs: Given.kwargs) -> Made:
        try:
            return function(*args, **kwargs)
        except TypeError:
            misfit = why_misfit(function, args, kwargs)
            if misfit is None:
                raise
            raise NetError(misfit) from None

    return checked


def why_misfit(
    function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], name: str = ""
) -> str | None:
    """What is wrong with arguments for a function, None where they fit."""
    signature = inspect.signature(function)
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        said = str(error)
    else:
        return None
    name = name or function.__qualname__.removesuffix(".__init__")
    known = [n for n, p in signature.parameters.items() if p.kind is not p.VAR_POSITIONAL]
    known = [n for n in known if n != "self"]
    unknown = [word for word in kwargs if word not in known]
    if not unknown:
        return f"{name}: {said}"
    told = []
    for word in unknown:
        hint = did_you_mean(word, known)
        told.append(f"'{word}'" + (f" ({hint.rstrip('?')}?)" if hint else ""))
    rest = "" if all("(" in word for word in told) else f"; there are {', '.join(known)}"
    return f"{name} has no argument {' and no '.join(told)}{rest}"


def as_names(given: Iterable[str] | str, what: str) -> tuple[str, ...]:
    """Names in order, each once; a single one may stand alone."""
    found = (given,) if isinstance(given, str) else given
    need(
        isinstance(found, Iterable) and all(isinstance(name, str) for name in found),
        f"{what} is a sequence of names, not {given!r}",
    )
    return tuple(dict.fromkeys(found))


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """`there is no layer 'conv11'; did you mean 'conv1'?`"""
    shown = [k for k in known if ":" not in k]
    hint = did_you_mean(str(name), shown)
    return f"there is no {kind} '{name}'" + (f"; {hint}" if hint else "")
