"""A trace: every checkpoint of a series measured once, kept by what decides it, and put into tables."""

from __future__ import annotations
