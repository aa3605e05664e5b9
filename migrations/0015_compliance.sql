-- The truth towards providers: what cannot be kept, since when, and what they were told of it.

-- Limits of single phases, beside those of the sum: [{phase, min_w, max_w}].
alter table envelope add column phases jsonb not null default '[]';

-- One row per forecast, block and reason. Forecast 0: a limit that no message gives, of which
-- block 0 is the import's and 1 the export's. Powers in W, all ≥ 0.
create table compliance (
    id          bigint generated always as identity primary key,
    group_id    bigint not null references capacity_group on delete cascade,
    forecast_id bigint not null,
    peer_id     bigint references peer on delete cascade,  -- whose forecast it is
    block       integer not null,              -- its place in the message, from 0 on
    reason      text not null,
    direction   text not null check (direction in ('import', 'export')),
    start_at    timestamptz not null,          -- the part of the block that cannot be kept
    end_at      timestamptz not null,
    power_w     bigint not null,               -- what flows all the same
    by_w        bigint not null,               -- and by how much that is too much
    since       timestamptz not null,
    last_at     timestamptz not null,
    settled_at  timestamptz,                   -- since then it is no flicker any more
    told_as     text,                          -- X-Request-ID of the GroupCapacityComplianceError
    asked_as    text,                          -- X-Request-ID of the AdjustGroupCapacityForecast
    cleared_at  timestamptz,
    unique (group_id, forecast_id, block, reason)
);
create index compliance_open on compliance (group_id) where cleared_at is null;
create index compliance_last on compliance (last_at);

-- When a group is looked at next, what of its readings was judged, and which breach goes on.
create table compliance_due (
    group_id     bigint primary key references capacity_group on delete cascade,
    due_at       timestamptz not null,
    leased_until timestamptz,
    judged_until timestamptz,                  -- time of the newest reading that was judged
    breach       jsonb                         -- {direction, since, last, power_w, readings}
);
create index compliance_due_at on compliance_due (due_at);

-- A group with a meter is under control, so that what is in force can be compared with it.
create index capacity_group_metered on capacity_group (id) where control ->> 'meter' is not null;
