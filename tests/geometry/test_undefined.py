from __future__ import annotations

import pytest

from limberlm.geometry import Undefined


def test_undefined_is_a_value_error_that_carries_its_reason() -> None:
    with pytest.raises(ValueError, match="too few rows"):
        raise Undefined("too few rows")
