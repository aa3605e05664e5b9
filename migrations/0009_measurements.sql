-- Measurements: periods are summed up while they run, late datum are noticed, reports corrected.

-- What was read of one property of an asset in one period, as far as it was summed up: the readings
-- of [start_at, until_at). Only the newest of an asset's is open; the others are for corrections.
create table measured_part (
    asset_id     bigint not null references asset on delete cascade,
    kind         text not null,                -- "i": of an instantaneous value, "a": of an energy
    property     text not null,
    start_at     timestamptz not null,
    stream_id    bigint not null,
    -- what the periods before it leave behind
    before_at    timestamptz,                  -- the last reading before start_at
    before_value numeric,
    bridge       numeric not null default 0,   -- what resets had taken from the register by then
    is_open      boolean not null default false,  -- the last energy was told up to before_at only
    -- the readings of [start_at, until_at)
    until_at     timestamptz not null,
    count        integer not null default 0,
    first_at     timestamptz,
    first_value  numeric,
    last_at      timestamptz,
    last_value   numeric,
    least        numeric,
    most         numeric,
    total        numeric,
    weighted     numeric,                      -- value × seconds until the next reading
    falls        numeric,
    primary key (asset_id, kind, property, start_at)
) with (fillfactor = 60);
create index measured_part_stream on measured_part (stream_id, start_at);

-- Up to here datum were summed up: what is older and comes now is late.
create table measured_until (until_at timestamptz not null);
insert into measured_until values ('-infinity');

-- Datum that came late, or anew with another value.
create table late_datum (
    stream_id bigint not null,
    at        timestamptz not null
);

create index asset_stream on asset (user_id, node_id, ltrim(source_id, '/'));

-- What a peer was told of a period, or that it was told nothing.
create table measurement_report (
    group_id    bigint not null references capacity_group on delete cascade,
    audience    text not null,
    start_at    timestamptz not null,
    end_at      timestamptz not null,
    period_s    integer not null,
    request_id  text not null,
    body_sha256 bytea,                         -- of the newest message; null: nothing was told
    revision    integer not null default 0,    -- how often it was corrected
    reported_at timestamptz not null,
    primary key (group_id, audience, start_at)
);
create index measurement_report_end on measurement_report (end_at);

-- From this instant on a group's reports are to be looked at again.
create table measurement_recheck (
    group_id     bigint not null references capacity_group on delete cascade,
    audience     text not null,
    from_at      timestamptz not null,
    notes        integer not null default 1,   -- how often something came in between
    leased_until timestamptz,
    primary key (group_id, audience)
);

-- Streams that fpd itself makes of messages are kept for a time of their own.
alter table stream add column is_own boolean not null default false;

-- A corrected report has the id of the report that it corrects.
alter table outbox add column revision integer not null default 0;
alter table outbox drop constraint outbox_peer_id_request_id_key;
alter table outbox add constraint outbox_peer_id_request_id_key
    unique (peer_id, request_id, revision);

-- What resets had taken: the newest open parts take it over.
insert into measured_part (asset_id, kind, property, start_at, stream_id, bridge, until_at)
select a.id, 'a', b.key, d.start_at, s.id, b.value::text::numeric, d.start_at
  from measurement_due as d
 cross join jsonb_each(d.bridges) as of_asset
 cross join jsonb_each(of_asset.value) as b
  join asset as a on a.id = of_asset.key::bigint and a.group_id = d.group_id
                 and a.audience = d.audience
  join stream as s on s.user_id = a.user_id and s.node_id = a.node_id
                  and s.source_id = ltrim(a.source_id, '/');
alter table measurement_due drop column bridges;
