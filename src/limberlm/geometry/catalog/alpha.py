"""Spectra: how fast the eigenvalues fall."""

from __future__ import annotations

from functools import partial

from limberlm.geometry import alpha
from limberlm.geometry.catalog.record import Metric

_INVARIANT = "Invariant to rotation, translation and positive scale."
_ENOUGH = "It holds from about five sequences per dimension on; with fewer it is too narrow."
_SHORT = "Undefined with fewer than 100 eigenvalues above 1e-12 of the largest."

_exponent = partial(
    Metric,
    family="spectrum",
    direction="up",
    scale="linear",
    needs="spectrum",
    conventions=("rms", "raw", "last"),
    corrected=False,  # at few sequences the jackknife does not remove all of its bias
    suite="full",
)


def _band(first: int, last: int | None) -> Metric:
    ranks = f"{first}-{last}" if last else f"{first} to d"
    needed = f"{last} eigenvalues above 1e-12 of the largest" if last else f"d >= {2 * first} and d such eigenvalues"
    return _exponent(
        name=f"alpha_band_{first}_{last}" if last else f"alpha_band_{first}",
        title=f"Exponent over ranks {ranks}",
        formula=f"as alpha_req, over ranks {ranks}",
        source="Our choice",
        bounds="real",
        compute=partial(alpha.alpha_band, first=first, last=last),
        note=f"{_INVARIANT} Needs {needed}. Its bias at small n depends on the spectrum; compare at one n and d. "
        f"The interval is about the corrected value. {_ENOUGH}",
        misses="What happens outside the band. Over the last ranks sampling alone steepens it.",
        oracle="power laws; two laws joined at a rank between the bands",
    )


METRICS = (
    _exponent(
        name="alpha_req",
        title="Spectral exponent, alpha-ReQ",
        formula="weighted slope of ln lambda_i on -ln i, ranks 12-100, weights 1/i",
        source="Agrawal et al. 2022; window and weights of the code released with 2509.23024",
        bounds="real",
        compute=alpha.alpha_req,
        note=f"{_INVARIANT} {_SHORT} Bias at small n of either sign: the value is the plug-in; compare at one n and d. "
        f"The interval is about the corrected value. {_ENOUGH}",
        misses="Everything outside ranks 12-100: a sink, and the tail. It fits a line to any spectrum: an exponential "
        "one reads 0.76, so look at alpha_curvature.",
        oracle="exact power laws; exp(-0.02 i); a law with a ripple; numpy's weighted least squares",
        suite="core",
    ),
    _exponent(
        name="alpha_r_squared",
        title="R^2 of the spectral exponent",
        formula="weighted R^2 of the line behind alpha_req",
        source="Our choice",
        bounds="[0, 1]",
        direction="drift",
        compute=alpha.alpha_r_squared,
        note=f"{_INVARIANT} 1 on an exact power law. {_SHORT} It has no interval: so close to its end the jackknife's "
        "held the truth in 57 to 77 % of repetitions.",
        interval="none",
        misses="High on much that is no power law: 0.93 on an exponential spectrum.",
        oracle="exact power laws; numpy's weighted least squares",
    ),
    _exponent(
        name="alpha_curvature",
        title="Curvature of the spectrum",
        formula="coefficient of (ln i)^2 when it is added to the line behind alpha_req",
        source="Our choice",
        bounds="real",
        compute=alpha.alpha_curvature,
        direction="drift",
        note=f"{_INVARIANT} 0 on a power law, negative when the spectrum falls ever faster, as a sampled flat one "
        f"does. Beyond 0.12 either way the exponent is no summary. {_SHORT} The interval is about the corrected value. "
        f"{_ENOUGH}",
        misses="Ripples with no overall bend. It says how well alpha_req describes the spectrum, not how concentrated "
        "it is.",
        oracle="exact power laws; a law with a quadratic term; numpy's weighted least squares",
    ),
    _band(32, 128),
    _band(128, 512),
    _band(512, None),
)
