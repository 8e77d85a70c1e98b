"""What a completion is rewarded by: the verifier, or a function of the user's.

The function has TRL's signature: it is called by name with `completions`, `prompts`, the rows' other columns and more
(`completion_ids`, `trainer_state`, `log_extra`, `log_metric`), and gives one number per completion, or None for one
that it cannot score. Its module is looked for in the study's folder first, then among the installed packages.
"""

from __future__ import annotations

import importlib
import inspect
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from limberlm.errors import NodeFailed, UserError, nearest
from limberlm.files import file_digest
from limberlm.stages.verifier import verifier_reward

VERIFIER = "verifier"
Reward = Callable[..., Sequence[float | None]]

_SPEC = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
_NOT_PASSED = {"prompt", "completion", "completion_ids"}  # columns that TRL keeps to itself
_PASSED = {"prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric"}
_imported: dict[str, str] = {}  # module name -> digest of its file when it was last imported


def reward_function(spec: str, source: str, *, folder: Path = Path()) -> Reward:
    """A stage's reward as a function for TRL.

    Args:
        spec: `verifier`, or `package.module:function`.
        source: the stage's data, which say what the verifier compares with.
        folder: where the module is looked for first.

    Returns:
        A function that stops the stage (`NodeFailed`, naming the step) where the user's raises, or gives anything but
        one finite number, or None, per completion.

    Raises:
        UserError: there is no such function.

    """
    return verifier_reward(source) if spec == VERIFIER else _guarded(spec, load_reward(spec, folder=folder))


def load_reward(spec: str, *, folder: Path = Path()) -> Reward:
    """The function that a `package.module:function` names, as it is.

    Raises:
        UserError: it is not written like that, the module cannot be imported, or it holds no such plain function.

    """
    if not _SPEC.fullmatch(spec):
        raise UserError(f"reward {spec}: is neither `verifier` nor written package.module:function")
    name, _, path = spec.partition(":")
    found: Any = _module(spec, name, folder)
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except Exception as error:  # AttributeError, or whatever a lazy module meets on the way
            raise UserError(f"reward {spec}: {name} holds no {path}{nearest(part, dir(found))}") from error
    called = found.func if isinstance(found, partial) else found
    if not callable(called) or inspect.isclass(called):
        raise UserError(f"reward {spec}: is {_a(type(called).__name__)}, not a function")
    if inspect.iscoroutinefunction(called) or inspect.iscoroutinefunction(type(called).__call__):
        raise UserError(f"reward {spec}: is asynchronous; give a plain function")
    function: Reward = found
    return function


def check_reward(spec: str, columns: Iterable[str], *, folder: Path = Path()) -> None:
    """Check before training that a reward can be called with what it will be given.

    Args:
        spec: `verifier`, or `package.module:function`.
        columns: those of the stage's rows.
        folder: where the module is looked for first.

    Raises:
        UserError: there is no such function, it wants an argument that is not there, or it does not take one that is.

    """
    if spec == VERIFIER:
        return
    try:
        parameters = inspect.signature(load_reward(spec, folder=folder)).parameters.values()
    except ValueError:  # a function without a readable signature
        return
    passed = _PASSED | set(columns) - _NOT_PASSED
    named = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    for each in parameters:
        needed = each.default is each.empty and each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)
        if needed and (each.name not in passed or each.name not in named):
            raise UserError(f"reward {spec}: wants {each.name}; what it is given is {', '.join(sorted(passed))}")
    if not any(each.kind is each.VAR_KEYWORD for each in parameters) and not passed <= named:
        raise UserError(
            f"reward {spec}: does not take {sorted(passed - named)[0]}; end its arguments with **columns, for it is "
            "called with all that there is, by name"
        )


def reward_digest(spec: str, *, folder: Path = Path()) -> str | None:
    """The digest of the file that a reward is written in, so that a changed one gives another node.

    What that file imports is not part of it. None for the verifier, which is part of limberlm.

    Raises:
        UserError: there is no such function, or it was not written in a file.

    """
    if spec == VERIFIER:
        return None
    function: Any = load_reward(spec, folder=folder)
    function = inspect.unwrap(function.func if isinstance(function, partial) else function)
    try:
        written = function if inspect.isroutine(function) else type(function)
        return file_digest(Path(str(inspect.getsourcefile(written))))
    except (TypeError, OSError) as error:
        raise UserError(f"reward {spec}: is not written in a file, so a change in it would go unnoticed") from error


def _guarded(spec: str, function: Reward) -> Reward:
    called: Any = function.func if isinstance(function, partial) else function

    def reward(completions: Sequence[Any], **columns: Any) -> list[float | None]:
        state = columns.get("trainer_state")
        where = f"reward {spec} at step {state.global_step + 1}" if state is not None else f"reward {spec}"
        try:
            given: Any = function(completions=completions, **columns)
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise NodeFailed(f"{where}: it raised {reason}") from error
        return _numbers(where, given, len(completions))

    reward.__name__ = getattr(called, "__name__", type(called).__name__)  # names the column in TRL's log
    return reward


def _numbers(where: str, given: Any, count: int) -> list[float | None]:
    if not isinstance(given, Iterable) or isinstance(given, str | bytes | dict):
        raise NodeFailed(f"{where}: it gave {_a(type(given).__name__)}, not a list of numbers")
    values = list(given)
    if len(values) != count:
        raise NodeFailed(f"{where}: it gave {len(values)} rewards for {count} completions")
    return [None if value is None else _number(where, value) for value in values]


def _number(where: str, value: Any) -> float:
    try:
        number = math.nan if isinstance(value, str | bytes) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise NodeFailed(f"{where}: it gave {value!r}, not a finite number or None")
    return number


def _module(spec: str, name: str, folder: Path) -> ModuleType:
    try:
        with _importing(folder):
            module = importlib.import_module(name)
            file = getattr(module, "__file__", None)
            if file is not None and _imported.setdefault(name, file_digest(Path(file))) != file_digest(Path(file)):
                module = importlib.reload(module)  # edited since: its new digest must not stand for the old code
                _imported[name] = file_digest(Path(file))
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise UserError(f"reward {spec}: importing {name} needs {error.name}, which is not installed") from error
        raise UserError(
            f"reward {spec}: no module called {error.name}, neither in {folder.resolve()} nor installed"
        ) from error
    except (Exception, SystemExit) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"reward {spec}: importing {name} fails ({reason})") from error
    _refuse_namesake(spec, module, name, folder)
    return module


def _refuse_namesake(spec: str, module: ModuleType, name: str, folder: Path) -> None:
    """Python imports a name once: a file in this folder may be hidden by one of that name imported before."""
    stem = folder.joinpath(*name.split("."))
    there = [path for path in (stem.with_suffix(".py"), stem / "__init__.py") if path.is_file()]
    file = getattr(module, "__file__", None)
    if there and (file is None or Path(file).resolve() != there[0].resolve()):
        raise UserError(f"reward {spec}: a module called {name} is loaded already, from {file}; rename {there[0]}")


@contextmanager
def _importing(folder: Path) -> Iterator[None]:
    """The folder first on the path, and no byte code left in it."""
    path, writes = list(sys.path), sys.dont_write_bytecode
    sys.path.insert(0, str(folder.resolve()))
    sys.dont_write_bytecode = True
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:], sys.dont_write_bytecode = path, writes


def _a(name: str) -> str:
    return f"{'an' if name[:1] in 'aeiou' else 'a'} {name}"
