-- When each group under control is planned next; heard_id: the newest forecast it was told of.
create table plan_due (
    group_id     bigint primary key references capacity_group on delete cascade,
    due_at       timestamptz not null,
    leased_until timestamptz,
    heard_id     bigint not null default 0
);
create index plan_due_at on plan_due (due_at);

-- Who carries what from from_at on, as it was planned then.
create table plan (
    id       bigint generated always as identity primary key,
    group_id bigint not null references capacity_group on delete cascade,
    made_at  timestamptz not null,
    from_at  timestamptz not null,
    source   text not null,                    -- highs, or arithmetic and why
    solve_s  real not null,
    periods  jsonb not null,                   -- limits, loads, devices: a value per quarter of an hour
    breaks   jsonb not null                    -- [{from, to, which: import|export, by_w, reason}]
);
create index plan_newest on plan (group_id, id desc);
create index plan_made on plan (made_at);

-- What was measured in each quarter of an hour (tick: since 1970), for the load to be expected.
create table load_quarter (
    stream_id bigint not null references stream on delete cascade,
    name      text not null,
    tick      integer not null,
    mean      double precision not null,
    least     double precision not null,
    most      double precision not null,
    primary key (stream_id, name, tick)
);
-- From when until when that is complete.
create table load_known (
    stream_id bigint not null references stream on delete cascade,
    name      text not null,
    from_at   timestamptz not null,
    until_at  timestamptz not null,
    primary key (stream_id, name)
);
