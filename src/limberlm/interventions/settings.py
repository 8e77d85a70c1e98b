"""What every intervention's settings have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from limberlm.errors import UserError
from limberlm.problems import first_problem


class InterventionSettings(BaseModel):
    """Settings of one intervention: keyword arguments in a script, a mapping in a study file.

    Class attributes:
        paths: settings that may name a file or folder, in a study file from where that lies; and the words that they
            may hold in its place.

    """

    paths: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


S = TypeVar("S", bound=InterventionSettings)


def checked(model: type[S], given: Mapping[str, Any], where: str) -> S:
    """The settings that keyword arguments give; `where` starts the error message.

    Raises:
        UserError: the first one that is unknown, missing, out of range, or at odds with another.

    """
    try:
        return model.model_validate(dict(given))
    except ValidationError as error:
        raise UserError(f"{where}: {first_problem(error, model)}") from None
