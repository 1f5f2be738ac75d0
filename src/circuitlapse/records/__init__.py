"""What a run leaves behind: verified artifacts, tidy tables and small documents. No torch here."""

from circuitlapse.records.documents import (
    Estimate,
    Evidence,
    Group,
    Label,
    Precondition,
    Provenance,
    Verdict,
    report_path,
    verdict_path,
)
from circuitlapse.records.store import Record, Store, content_hash, key_of, replacing
from circuitlapse.records.tables import SCHEMAS, table

__all__ = [
    "SCHEMAS",
    "Estimate",
    "Evidence",
    "Group",
    "Label",
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
