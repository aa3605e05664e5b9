"""The fields of every entity: what it is made of, in the order in which it is shown.

Source: the SolarUser OSCP API; what it leaves open is in decisions M1 to M11.
"""

from __future__ import annotations

from typing import Final

from fpd.domain import entities
from fpd.domain.forecast import GapPolicy, OptimumDirection
from fpd.flows.manage.fields import (
    Access,
    Choice,
    DeviceName,
    Field,
    Flag,
    Id,
    Instant,
    Names,
    Number,
    Part,
    Period,
    Reference,
    Status,
    Styles,
    Template,
    Text,
    Url,
)
from fpd.flows.manage.service_props import ServiceProps
from fpd.store.entities import GROUPS, OPTIMIZERS, PROVIDERS

_DATES: Final = (
    Field(name="created", kind=Instant(), column="created_at", access=Access.SHOWN),
    Field(name="modified", kind=Instant(), column="modified_at", access=Access.SHOWN),
)
_USER: Final = Field(name="userId", kind=Id(), column="user_id", access=Access.SHOWN)
_IDENTITY: Final = (
    _USER,
    Field(name="configId", kind=Id(), column="id", access=Access.SHOWN),
    *_DATES,
)
_NAME: Final = Field(name="name", kind=Text(64), required=True)
_ENABLED: Final = Field(name="enabled", kind=Flag(), default=False)

_BEHAVIOUR: Final = Part(
    (
        Field(name="heartbeatSeconds", kind=Number(), column="heartbeat_interval_s"),
        Field(name="measurementStyles", kind=Styles(), column="measurement_configuration"),
    )
)

PEER: Final = (
    *_IDENTITY,
    _ENABLED,
    _NAME,
    # Shown once, when it was made.
    Field(name="token", kind=Text(64), access=Access.SHOWN),
    Field(name="baseUrl", kind=Url(256), column="base_url"),
    Field(name="oscpVersion", kind=Text(8), column="oscp_version", default="2.0"),
    Field(
        name="flexibilityProviderId",
        kind=Id(),
        column="flexibility_provider_id",
        access=Access.SHOWN,
    ),
    Field(name="registrationStatus", kind=Status(), column="link"),
    Field(name="settings", kind=_BEHAVIOUR, column="behaviour", access=Access.SHOWN),
    Field(name="heartbeatDate", kind=Instant(), column="heartbeat_sent_at", access=Access.SHOWN),
    Field(name="offlineDate", kind=Instant(), column="offline_mode_at", access=Access.SHOWN),
    Field(name="serviceProps", kind=ServiceProps(), column="service_props"),
)

_METER: Final = Part(
    (
        Field(name="nodeId", kind=Id(), required=True),
        Field(name="sourceId", kind=Text(64), required=True),
        Field(name="property", kind=Text(255), required=True),
        Field(name="multiplier", kind=Number(), default=1),
    )
)

# Interpretation: decision M10, limits are whole watts.
_GROUP_CONTROL: Final = Part(
    (
        Field(name="staticImportLimit", kind=Number(least=0, whole=True)),
        Field(name="staticExportLimit", kind=Number(least=0, whole=True)),
        Field(name="nominalVoltage", kind=Number(least=1, most=1_000_000), default=230),
        Field(name="phases", kind=Number(whole=True, among=(1, 3)), default=3),
        Field(
            name="capacityScope",
            kind=Choice(tuple(entities.CapacityScope)),
            default=entities.CapacityScope.NET.value,
        ),
        Field(name="gapPolicy", kind=Choice(tuple(GapPolicy)), default=GapPolicy.FALLBACK.value),
        Field(
            name="optimumDirection",
            kind=Choice(tuple(OptimumDirection)),
            default=OptimumDirection.AUTO.value,
        ),
        Field(name="marginPercent", kind=Number(least=0, most=50), default=2),
        Field(name="meter", kind=_METER),
        Field(name="expectedLoad", kind=_METER),
        Field(name="settleSeconds", kind=Number(least=0, most=900)),
        # An extension of ours: AdjustGroupCapacityForecast when a limit cannot be kept.
        Field(name="requestAdjustment", kind=Flag()),
    )
)

GROUP: Final = (
    *_IDENTITY,
    _NAME,
    _ENABLED,
    Field(name="identifier", kind=Text(128), required=True),
    Field(
        name="capacityProviderMeasurementPeriod",
        kind=Period(),
        column="provider_period_s",
        required=True,
    ),
    Field(
        name="capacityOptimizerMeasurementPeriod",
        kind=Period(),
        column="optimizer_period_s",
    ),
    Field(
        name="capacityProviderId",
        kind=Reference(PROVIDERS, "capacity provider"),
        column="provider_id",
        required=True,
    ),
    Field(
        name="capacityOptimizerId",
        kind=Reference(OPTIMIZERS, "capacity optimizer"),
        column="optimizer_id",
    ),
    Field(name="control", kind=_GROUP_CONTROL),
)


def _measured(
    units: tuple[entities.MeasurementUnit, ...], statistic: entities.StatisticType
) -> tuple[Field, ...]:
    """Return what instantaneous and energy measurements have in common."""
    return (
        Field(name="propertyNames", kind=Names(), required=True),
        Field(name="unit", kind=Choice(units), required=True),
        Field(name="multiplier", kind=Number()),
        Field(
            name="statisticType",
            kind=Choice(tuple(entities.StatisticType)),
            default=statistic.value,
        ),
    )


_INSTANTANEOUS: Final = Part(
    _measured(tuple(entities.MeasurementUnit), entities.StatisticType.AVERAGE)
)
_ENERGY: Final = Part(
    (
        *_measured(entities.ENERGY_UNITS, entities.StatisticType.DIFFERENCE),
        Field(
            name="type",
            kind=Choice(tuple(entities.EnergyType)),
            default=entities.EnergyType.TOTAL.value,
        ),
        Field(
            name="direction",
            kind=Choice(tuple(entities.EnergyDirection)),
            default=entities.EnergyDirection.IMPORT.value,
        ),
    )
)
_ASSET_CONTROL: Final = Part(
    (
        Field(name="device", kind=DeviceName(255), required=True),
        Field(name="priority", kind=Number(least=1, most=1000, whole=True), default=1),
    )
)

ASSET: Final = (
    *_IDENTITY,
    _NAME,
    _ENABLED,
    Field(
        name="capacityGroupId",
        kind=Reference(GROUPS, "capacity group"),
        column="group_id",
        required=True,
    ),
    Field(name="identifier", kind=Text(64), required=True),
    Field(name="audience", kind=Choice(entities.AUDIENCES), required=True),
    Field(name="nodeId", kind=Id(), column="node_id", required=True),
    Field(name="sourceId", kind=Text(64), column="source_id", required=True),
    Field(name="category", kind=Choice(tuple(entities.AssetCategory)), required=True),
    Field(name="phase", kind=Choice(tuple(entities.Phase)), required=True),
    Field(name="instantaneous", kind=_INSTANTANEOUS),
    Field(name="energy", kind=_ENERGY),
    Field(name="control", kind=_ASSET_CONTROL),
)


def _publishing(*, publish: bool | None, node_required: bool) -> tuple[Field, ...]:
    return (
        Field(name="publishToSolarIn", kind=Flag(), column="publish_to_solar_in", default=publish),
        Field(
            name="publishToSolarFlux", kind=Flag(), column="publish_to_solar_flux", default=publish
        ),
        Field(name="nodeId", kind=Id(), column="node_id", required=node_required),
        Field(name="sourceIdTemplate", kind=Template(255), column="source_id_template"),
    )


USER_SETTINGS: Final = (_USER, *_DATES, *_publishing(publish=True, node_required=True))
# What a group does not say is the user's.
GROUP_SETTINGS: Final = (
    _USER,
    Field(name="groupId", kind=Id(), column="group_id", access=Access.SHOWN),
    *_DATES,
    *_publishing(publish=None, node_required=False),
)
