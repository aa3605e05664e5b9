"""What devices said goes where every datum goes: into the stream that the device is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal

from fpd.adapters.device import Sample
from fpd.config import Device
from fpd.domain.datum import Datum, StreamKey
from fpd.flows import ingest
from fpd.flows.context import Context


async def keep(context: Context, device: Device, samples: Sequence[Sample]) -> None:
    """Store samples as datum; a device without node and source has no stream."""
    if device.node_id is None or device.source_id is None or not samples:
        return
    stream = StreamKey(device.user_id, device.node_id, device.source_id.lstrip("/"))
    datums = [
        Datum(
            stream=stream,
            at=sample.at,
            i=exact(sample.instantaneous),
            a=exact(sample.accumulating),
            s=dict(sample.status),
        )
        for sample in samples
    ]
    await ingest.store(context, datums)


def exact(values: Mapping[str, float | Decimal]) -> dict[str, Decimal]:
    """Return numbers as the decimals that they are written as."""
    return {name: Decimal(str(value)) for name, value in values.items()}
