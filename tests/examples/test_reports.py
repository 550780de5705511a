"""The committed reports of the demo: all seeds are there, and the page shows exactly what they say."""

from __future__ import annotations

from pathlib import Path

from benchmarks.demo_seeds import reports, table

PAGE = Path(__file__).resolve().parents[2] / "docs" / "demo.md"


def test_eleven_reports_are_kept() -> None:
    assert [report["seed"] for report in reports()] == list(range(11))
    for report in reports():
        assert report["schema_version"] == 1
        assert set(report["held_out"]) >= {"before", "after"}


def test_the_page_shows_the_reports() -> None:
    text = PAGE.read_text(encoding="utf-8")
    shown = text.split("<!-- table -->")[1].split("<!-- end of table -->")[0].strip()
    assert shown == table(reports())


def test_what_the_demo_claims_holds_in_the_reports() -> None:
    gains = [report["gain"] for report in reports()]
    assert gains[0]["low"] > 0
    assert sum(gain["low"] > 0 for gain in gains[1:]) >= 8
    first = reports()[0]
    after = first["held_out"]["after"]["mean"]
    assert after > first["baselines"]["nearest_neighbour"]["mean"]
    assert after > first["baselines"]["majority"]["mean"]
