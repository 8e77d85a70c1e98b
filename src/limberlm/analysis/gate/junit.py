"""A verdict as JUnit XML, which build servers show: one test case for each criterion."""

from __future__ import annotations

from xml.etree.ElementTree import Element, SubElement, indent, tostring

from limberlm.analysis.gate.judgement import Judgement
from limberlm.analysis.gate.verdict import Verdict


def junit(verdict: Verdict) -> str:
    """The XML text. Inconclusive is a `failure` of that type: viewers show `skipped` as harmless, and it is no pass."""
    open_ = sum(one.decision != "pass" for one in verdict.judgements)
    counts = {"tests": str(len(verdict.judgements)), "failures": str(open_), "errors": "0", "skipped": "0"}
    suite = Element("testsuite", {"name": "limber gate", **counts})
    for one in verdict.judgements:
        case = SubElement(suite, "testcase", {"classname": "limber.gate", "name": _printable(one.case.name)})
        if one.decision != "pass":
            failure = SubElement(case, "failure", {"type": one.decision, "message": _printable(one.reason)})
            failure.text = _numbers(one)
        else:
            SubElement(case, "system-out").text = _numbers(one)
    indent(suite)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + tostring(suite, encoding="unicode") + "\n"


def _numbers(one: Judgement) -> str:
    names = ("change", "low", "high", "margin", "std_error", "detectable", "passes")
    known = {name: getattr(one, name) for name in names}
    told = ", ".join(f"{name} {value:.6g}" for name, value in known.items() if value is not None)
    return f"{told} ({'natural logarithms' if one.case.scale == 'log' else 'differences'}, {one.pairs} pairs)"


def _printable(text: str) -> str:
    """XML has no way to write most control characters."""
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text)
