"""Reasons of invalid trials, by kind."""

from __future__ import annotations

from sedabench.results.reasons import first_kinds, kind, split


def test_numbers_and_details_of_one_trial_make_no_kind_of_their_own() -> None:
    texts = [
        "requests were sent late: 99th percentile 1.88 ms | 3 connections were refused",
        "requests were sent late: 99th percentile 2.10 ms",
        "12 of 1024 connections came up",
        "7 of 1024 connections came up",
    ]
    assert first_kinds(texts) == [
        ("requests were sent late", 2),
        ("N of N connections came up", 2),
    ]


def test_a_kind_whose_numbers_are_always_the_same_keeps_them() -> None:
    assert first_kinds(["over 1 ms late: 3", "over 1 ms late: 4"]) == [("over 1 ms late", 2)]


def test_a_trial_without_a_reason_has_none() -> None:
    assert split("") == []
    assert first_kinds(["", ""]) == []
    assert kind("the server used 5.5 s of CPU.") == "the server used N s of CPU"
