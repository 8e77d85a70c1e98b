"""Finding and loading tasks of lm-eval: by name or from a file, without running code from the hub or from a model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from limberlm.errors import UserError, nearest

MISSING = 'lm_eval: the package lm-eval is not installed; pip install "limberlm[eval]"'
FILES = (".yaml", ".yml")


def require_lm_eval() -> None:
    """Check that the extra is installed.

    Raises:
        UserError: it is not.

    """
    try:
        import lm_eval  # noqa: F401
    except ImportError:
        raise UserError(MISSING) from None


def check_task(name: str, include_path: str | None = None) -> None:
    """Check that a task exists and needs no code that limberlm does not run; its data are not looked at.

    Raises:
        UserError: lm-eval is not installed, there is no such task, its definition cannot be read, it runs code that a
            model wrote, or one of its metrics is a program on the hub.

    """
    _checked(name, include_path)


def load_task(name: str, include_path: str | None = None) -> Any:
    """lm-eval's dictionary of the task or the group's tasks, with their data.

    Paths in a task's own file are read from the file's folder.

    Raises:
        UserError: as in `check_task`; or the data cannot be had, a package is missing, or the task reads images.

    """
    manager, spec = _checked(name, include_path)
    try:
        with contextlib.chdir(_folder(manager, spec) or Path.cwd()), no_code_from_the_hub(name):
            loaded = manager.load([spec])
    except UserError:
        raise
    except ModuleNotFoundError as error:
        raise UserError(f'{_said(name)}: needs the package "{error.name}"; install it') from error
    except Exception as error:  # whatever a reader of data or a task's own code raises
        raise UserError(_not_loaded(name, _configs(manager, spec, name), error)) from error
    for task in loaded["tasks"].values():
        if getattr(task, "UNSAFE_CODE", False):
            raise UserError(_runs_code(name))
        if getattr(task, "MULTIMODAL", False):
            raise UserError(f"{_said(name)}: reads images or sound; choose a task of text")
    return loaded


def _checked(name: str, include_path: str | None) -> tuple[Any, str]:
    """The manager that knows a task, and what it knows it by: a name, or the absolute path of its file."""
    require_lm_eval()
    manager, spec = _found(name, include_path)
    for config in _configs(manager, spec, name):
        _refuse_code(name, config)
    return manager, spec


def _found(name: str, include_path: str | None) -> tuple[Any, str]:
    folder = None if include_path is None else Path(include_path).expanduser().resolve()
    if folder is not None and not folder.is_dir():
        raise UserError(f"include_path: {include_path} is not a folder; give one that holds task files")
    own = _manager(folder)
    if name.endswith(FILES):
        path = Path(name).expanduser().resolve()
        if not path.is_file():
            raise UserError(f"{_said(name)}: no such file; give a task's YAML file, or a name of lm-eval's registry")
        return (own if _self_contained(own, _read(path, name)) else _with_registry(folder)), str(path)
    if name in own.task_index and _self_contained(own, own.task_index[name].cfg or {}):
        return own, name
    manager = _with_registry(folder)
    if name not in manager.task_index:
        hint = nearest(name, manager.all_tasks)
        raise UserError(f"{_said(name)}: lm-eval has none of that name{hint}; or give the path of a YAML file")
    return manager, name


def _manager(folder: Path | None, defaults: bool = False) -> Any:
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=None if folder is None else str(folder), include_defaults=defaults)


@cache
def _with_registry(folder: Path | None) -> Any:
    return _manager(folder, defaults=True)  # reads some 15,000 definitions, which takes seconds


def _self_contained(manager: Any, config: dict[str, Any]) -> bool:
    """Whether a definition is a task, or a group of tasks that are all known without lm-eval's own."""
    members = config.get("task") if "group" in config else None
    listed = [members] if isinstance(members, str) else members or ()
    return all(isinstance(member, str) and member in manager.task_index for member in listed)


def _read(path: Path, name: str) -> dict[str, Any]:
    """A definition as written, what it includes merged in, its functions left as names."""
    from lm_eval.tasks._yaml_loader import load_yaml

    try:
        config: dict[str, Any] = load_yaml(path, resolve_func=False)
    except Exception as error:  # of YAML, of a file that is included, or of the loader
        raise UserError(f"{_said(name)}: not a task definition ({_first_line(error)})") from error
    if not isinstance(config.get("task", config.get("group")), str):
        raise UserError(f"{_said(name)}: not a task definition: it needs `task: NAME` or `group: NAME`")
    return config


def _configs(manager: Any, spec: str, name: str) -> Iterator[dict[str, Any]]:
    """The definitions of a task, or of all tasks that a group or a tag stands for."""
    if spec.endswith(FILES):
        yield from _within(manager, _read(Path(spec), name))
        return
    entry = manager.task_index[spec]
    for member in sorted(entry.tags) if entry.kind.name == "TAG" else ():
        yield from _configs(manager, member, name)
    if entry.kind.name != "TAG":
        yield from _within(manager, entry.cfg or {})


def _within(manager: Any, config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    members = config.get("task") if "group" in config else None
    if members is None:
        yield config
    for member in [members] if isinstance(members, str) else members or ():
        if isinstance(member, dict) and ("group" in member or member.get("task") not in manager.task_index):
            yield from _within(manager, member)
        else:
            known = member["task"] if isinstance(member, dict) else member
            if known in manager.task_index:
                yield from _configs(manager, known, known)


def _refuse_code(name: str, config: dict[str, Any]) -> None:
    from lm_eval.api import metrics  # noqa: F401  (fills the registry)
    from lm_eval.api.registry import metric_registry

    if config.get("unsafe_code"):
        raise UserError(_runs_code(name))
    for entry in config.get("metric_list") or () if config.get("process_results") is None else ():
        metric = str(entry.get("metric"))
        own = "/" in metric or callable(entry.get("metric"))  # a function beside the definition
        if entry.get("hf_evaluate") or not (own or metric in metric_registry):
            raise UserError(_hub_code(name, metric))


@contextlib.contextmanager
def no_code_from_the_hub(name: str) -> Iterator[None]:
    """While open, `evaluate.load`, which runs metrics from the hub, refuses: a task's own files may call it too."""
    import evaluate

    def refuse(path: str, *args: Any, **settings: Any) -> Any:
        raise UserError(_hub_code(name, path))

    usual, evaluate.load = evaluate.load, refuse
    try:
        yield
    finally:
        evaluate.load = usual


def _folder(manager: Any, spec: str) -> Path | None:
    """The folder of a definition that is not lm-eval's own."""
    import lm_eval.tasks

    path = Path(spec) if spec.endswith(FILES) else manager.task_index[spec].yaml_path
    if path is None or Path(path).is_relative_to(Path(str(lm_eval.tasks.__file__)).parent):
        return None
    return Path(path).parent


def _not_loaded(name: str, configs: Iterator[dict[str, Any]], error: Exception) -> str:
    import datasets

    sources = sorted({str(config["dataset_path"]) for config in configs if config.get("dataset_path")})
    data = f"; its data: {', '.join(sources[:3])}{', ...' if len(sources) > 3 else ''}" if sources else ""
    offline = "; HF_HUB_OFFLINE is set, so data must be on this disk already" if datasets.config.HF_HUB_OFFLINE else ""
    return f"{_said(name)}: cannot be loaded ({type(error).__name__}: {_first_line(error)}){data}{offline}"


def _said(name: str) -> str:
    return f'lm_eval task "{name}"'


def _runs_code(name: str) -> str:
    return f"{_said(name)}: runs programs that the model writes, which is not done here; choose another task"


def _hub_code(name: str, metric: str) -> str:
    return f'{_said(name)}: its metric "{metric}" is a program on the hub, which is not run here; choose another task'


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or "no reason given"
