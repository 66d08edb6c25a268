"""A file with many slices gets one row."""

from __future__ import annotations

from medmim.data.ingest.ledger import FileOutcomes, Ledger


def test_one_row_per_file():
    fates, ledger = FileOutcomes(), Ledger({number: f"f{number}" for number in range(3)})
    fates.add([0, 1], "accepted", "volume", volume="v1", measured={"deviation_mm": 0.1})
    fates.add([0], "accepted", "volume", volume="v2")
    fates.add([1, 2], "quarantined", "missing_slice", measured={"gaps": 1.0})
    fates.write(ledger)
    whole, part, refused = ledger.rows()
    assert (whole.reason, whole.volume, whole.measured) == (
        "volume",
        "v1",
        {"deviation_mm": 0.1, "volumes": 2},
    )
    assert (part.fate, part.reason, part.measured["refused_parts"]) == ("accepted", "volume_in_part", 1)
    assert (refused.fate, refused.reason, refused.measured) == ("quarantined", "missing_slice", {"gaps": 1})
