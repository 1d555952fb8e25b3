"""What a sidecar ships to the hub at once, and how it is written: one JSON object, strict and bounded.

    POST HUB/intake/v1/batches, perhaps with Content-Encoding: gzip

(`sidecar`, `boot`, `sequence`) names a batch: the same batch may be sent more often, and counts once. `boot` is new
wherever a sidecar begins to count anew. `status` is how the sidecar stands when it ships; its numbers only grow within
a boot, but for `spooled`.

# INVARIANT (total): any bytes give a batch or a RecordError; what `batch_json` writes, `batch_from_json` reads.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from authz.identity.json_document import JsonError, json_object
from authz.instant import rfc3339_from_ns
from authz.records.call_ends import MAX_NAME_CHARS, MAX_REVISION_CHARS
from authz.records.decision_record import DecisionRecord, record_from_json, record_json
from authz.records.errors import RecordError
from authz.records.flow import Flow, flow_from_json, flow_json
from authz.records.json_fields import (
    MAX_COUNT,
    count_of,
    fields_of,
    instant_ns_of,
    instant_ns_or_none,
    list_of,
    text_of,
    text_or_none,
    truth_of,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

#: the contract's limit on what is sent, unpacked
MAX_BATCH_BYTES: Final = 8 * 1024 * 1024
#: A flow has about 900 bytes, a record about 800: neither can come more often than this within the limit.
MAX_FLOWS: Final = 16_384
MAX_RECORDS: Final = 16_384
PATH: Final = "/intake/v1/batches"
_BOOT: Final = re.compile(r"[0-9a-f]{8,64}", re.ASCII)
_FIELDS: Final = frozenset({"sidecar", "boot", "sequence", "service", "sent", "records", "flows", "status", "catalog"})
_STATUS: Final = frozenset(
    {"revision", "svid_expires", "spooled", "lost", "unjoined", "dropped", "failed_handshakes", "ready"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SidecarStatus:
    """How the sidecar stands.

    `spooled` batches wait, this one among them. `lost` decisions were counted and are in no flow and no record;
    of the calls of `unjoined` ones nothing else was heard; `dropped` are those of batches that had no room. All other
    decisions are in flows, each once. `failed_handshakes` made no decision.
    """

    revision: str | None = None
    svid_expires_ns: int | None = None
    spooled: int = 0
    lost: int = 0
    unjoined: int = 0
    dropped: int = 0
    failed_handshakes: int = 0
    ready: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What is shipped at once; `sent_ns` is when it was written."""

    sidecar: str
    boot: str
    sequence: int
    service: str
    sent_ns: int
    records: tuple[DecisionRecord, ...] = ()
    flows: tuple[Flow, ...] = ()
    status: SidecarStatus = SidecarStatus()


def batch_json(batch: Batch) -> bytes:
    """Write a batch, in ASCII."""
    return written_batch(
        batch,
        records=[written_json(record_json(record)) for record in batch.records],
        flows=[written_json(flow_json(flow)) for flow in batch.flows],
    )


def written_json(value: object) -> bytes:
    """Write a part of a batch, in ASCII."""
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def written_batch(batch: Batch, *, records: Sequence[bytes], flows: Sequence[bytes]) -> bytes:
    """Write a batch whose records and flows are written already; those of the value are left out."""
    status = batch.status
    head = {
        "sidecar": batch.sidecar,
        "boot": batch.boot,
        "sequence": batch.sequence,
        "service": batch.service,
        "sent": rfc3339_from_ns(batch.sent_ns),
        "status": {
            "revision": status.revision,
            "svid_expires": None if status.svid_expires_ns is None else rfc3339_from_ns(status.svid_expires_ns),
            "spooled": status.spooled,
            "lost": status.lost,
            "unjoined": status.unjoined,
            "dropped": status.dropped,
            "failed_handshakes": status.failed_handshakes,
            "ready": status.ready,
        },
        "catalog": None,
    }
    return b"".join(
        [written_json(head)[:-1], b',"records":[', b",".join(records), b'],"flows":[', b",".join(flows), b"]}"]
    )


def batch_from_json(document: bytes) -> Batch:
    """Read a batch; raises RecordError."""
    if len(document) > MAX_BATCH_BYTES:
        raise RecordError(f"a batch has at most {MAX_BATCH_BYTES} bytes")
    try:
        value = json_object(document)
    except JsonError as error:
        raise RecordError(f"batch: {error}") from error
    fields = fields_of(value, _FIELDS, of="batch")
    boot, sequence = fields["boot"], count_of(fields["sequence"], MAX_COUNT, of="batch.sequence")
    if type(boot) is not str or _BOOT.fullmatch(boot) is None:
        raise RecordError("batch.boot: must be 8 to 64 hexadecimal digits")
    if not sequence:
        raise RecordError("batch.sequence: the first batch has 1")
    if fields["catalog"] is not None:
        raise RecordError("batch.catalog: must be null")
    return Batch(
        sidecar=text_of(fields["sidecar"], MAX_NAME_CHARS, of="batch.sidecar"),
        boot=boot,
        sequence=sequence,
        service=text_of(fields["service"], MAX_NAME_CHARS, of="batch.service"),
        sent_ns=instant_ns_of(fields["sent"], of="batch.sent"),
        records=tuple(map(record_from_json, list_of(fields["records"], MAX_RECORDS, of="batch.records"))),
        flows=tuple(map(flow_from_json, list_of(fields["flows"], MAX_FLOWS, of="batch.flows"))),
        status=_status(fields["status"]),
    )


def _status(value: Any) -> SidecarStatus:
    fields = fields_of(value, _STATUS, of="status")
    return SidecarStatus(
        revision=text_or_none(fields["revision"], MAX_REVISION_CHARS, of="status.revision"),
        svid_expires_ns=instant_ns_or_none(fields["svid_expires"], of="status.svid_expires"),
        spooled=count_of(fields["spooled"], of="status.spooled"),
        lost=count_of(fields["lost"], of="status.lost"),
        unjoined=count_of(fields["unjoined"], of="status.unjoined"),
        dropped=count_of(fields["dropped"], of="status.dropped"),
        failed_handshakes=count_of(fields["failed_handshakes"], of="status.failed_handshakes"),
        ready=truth_of(fields["ready"], of="status.ready"),
    )
