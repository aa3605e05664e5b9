-- How streams are: whether datum still come as usual, and whether they still say something new.

create table stream_health (
    stream_id   bigint primary key references stream on delete cascade,
    state       text not null default 'unknown'
                check (state in ('unknown', 'ok', 'stale', 'frozen')),
    since_at    timestamptz not null,
    due_at      timestamptz not null,          -- when it is looked at again
    latest_at   timestamptz,                   -- its newest datum, as last seen
    cadence_s   double precision,              -- usual time from one datum to the next
    learned_at  timestamptz,
    -- what the newest datum said, since when, and how many in a row were seen to say it
    i           jsonb,
    a           jsonb,
    i_since_at  timestamptz,
    a_since_at  timestamptz,
    i_seen      integer not null default 0,
    a_seen      integer not null default 0,
    power_since_at timestamptz                 -- since when its power was never seen to be 0
) with (fillfactor = 60);
create index stream_health_due on stream_health (due_at);
create index stream_health_ill on stream_health (state) where state in ('stale', 'frozen');
