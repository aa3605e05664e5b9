-- A sum of registers of which one is silent is not told, and told with the next one that is whole:
-- where what was told of this register ended, if that was before the period before this one.
alter table measured_part
    add since_at    timestamptz,
    add since_level text;                      -- an exact fraction: "7/3"

-- Who is there: an instance that has gone, or was renamed by the daemon at the same home, leaves
-- nothing retained behind.
create table mqtt_instance (
    instance text primary key,
    home     text,                             -- which machine and data_dir it was last seen in
    seen_at  timestamptz not null
);

-- One daemon at a time tells Home Assistant, under an identity that outlives renaming; what it told
-- is in "retained" under the instance "".
create table home_assistant (
    only_one     boolean primary key default true check (only_one),
    identity     text not null,
    holder       text not null,
    term         bigint not null default 0,    -- how often the holder has changed
    leased_until timestamptz not null
);
insert into home_assistant (identity, holder, leased_until)
select min(instance), min(instance), '-infinity' from retained
 where topic ~ '/(binary_)?sensor/fpd_[^/]+/[^/]+/config$'
having count(*) > 0;
update retained as r set instance = '' from home_assistant as h
 where r.instance = h.identity and topic ~ '/(binary_)?sensor/fpd_[^/]+/[^/]+/config$';
