"""Percentiles and shares, and the table of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.cli.load.figures import COMPLETE, NAMES, NOT_SENT, Utterance, percentile, summarize
from serve_app.cli.load.tables import load_lines

values = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=300).map(sorted)


def spoken(ttfa_s=0.1, **changes):
    given = {"at_s": 0.0, "code": COMPLETE, "ttfa_s": ttfa_s, "e2e_s": 0.5, "samples": 24_000}
    return Utterance(**{**given, **changes})


@given(values, st.integers(1, 100))
def test_a_percentile_is_the_least_value_that_so_many_do_not_exceed(values, percent):
    found = percentile(values, percent)
    assert found in values
    assert sum(value <= found for value in values) * 100 >= percent * len(values)
    assert sum(value < found for value in values) * 100 < percent * len(values)


@given(values)
def test_percentiles_rise_up_to_the_worst(values):
    found = [percentile(values, percent) for percent in (50, 90, 95, 99, 100)]
    assert found == sorted(found)
    assert found[-1] == values[-1]


def test_times_are_of_the_complete_ones_alone_and_errors_of_all():
    summary = summarize(
        [
            spoken(0.1),
            spoken(0.3, underruns=2, silent_s=0.25),
            spoken(9.0, code="CAPACITY", samples=480),
            Utterance(1.0, NOT_SENT),
        ]
    )
    assert (summary.arrivals, summary.complete) == (4, 2)
    assert summary.codes == {"CAPACITY": 1, NOT_SENT: 1}
    assert summary.figures["errors"] == 0.5
    assert summary.figures["underruns"] == 0.5
    assert summary.figures["ttfa_p50_ms"] == pytest.approx(100)
    assert summary.figures["ttfa_max_ms"] == pytest.approx(300)
    assert summary.figures["rtf_p95"] == pytest.approx(0.5)
    assert summary.samples == 48_480
    assert (summary.underruns, summary.silent_s) == (2, 0.25)


def test_what_nothing_is_known_of_is_missing():
    figures = summarize([Utterance(0.0, "ECONNREFUSED")]).figures
    assert figures == {"errors": 1.0}
    silent = summarize([spoken()]).figures
    assert "audible_ttfa_p50_ms" not in silent
    assert set(silent) <= set(NAMES)


def test_an_utterance_without_audio_has_no_rtf():
    assert spoken(samples=0).rtf is None
    assert spoken(e2e_s=2.0).rtf == 2.0


def test_the_table_says_what_failed_and_what_was_heard():
    utterances = [spoken(audible_s=0.12), spoken(0.2), Utterance(1.0, NOT_SENT), Utterance(1.0, "CAPACITY")]
    printed = "\n".join(load_lines(summarize(utterances), 8.0, 0.1))
    assert "4 arrivals in 8 s, 0.50/s: 2 complete, 1 failed, 1 not sent" in printed
    assert "CAPACITY: 1" in printed
    (line,) = [line for line in printed.splitlines() if line.startswith("TTFA, ms")]
    assert line.split()[2:] == ["100", "200", "200", "200", "200"]
    assert "in 0.0% of the utterances" in printed


def test_a_load_of_failures_alone_has_no_percentiles():
    lines = load_lines(summarize([Utterance(0.0, "HTTP_503")] * 3), 1.0, 0.1)
    assert "  HTTP_503: 3" in lines
    assert not any("TTFA" in line for line in lines)
