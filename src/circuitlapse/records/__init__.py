"""What a run leaves behind: verified artifacts, tidy tables and small documents. No torch here."""

from circuitlapse.records.documents import (
    CAUSES,
    Cause,
    Estimate,
    Evidence,
    Group,
    Label,
    OneSeed,
    Precondition,
    Provenance,
    Verdict,
    report_path,
    verdict_path,
)
from circuitlapse.records.store import Record, Store, content_hash, key_of, replacing
from circuitlapse.records.tables import SCHEMAS, table

__all__ = [
    "CAUSES",
    "SCHEMAS",
    "Cause",
    "Estimate",
    "Evidence",
    "Group",
    "Label",
    "OneSeed",
    "Precondition",
    "Provenance",
    "Record",
    "Store",
    "Verdict",
    "content_hash",
    "key_of",
    "replacing",
    "report_path",
    "table",
    "verdict_path",
]
