-- Platforms that are read: how each is, and its polls, each a row that wants attention at due_at.
create table platform (
    name        text primary key,
    kind        text not null,
    health      text not null default 'unknown',
    detail      text,
    since_at    timestamptz not null           -- since when its health is this
);

create table platform_poll (
    platform     text not null references platform on delete cascade,
    job          text not null,                -- what is read: meter/6, points
    due_at       timestamptz not null,
    leased_until timestamptz,
    failures     integer not null default 0,   -- in a row
    health       text not null default 'unknown',
    detail       text,
    since_at     timestamptz not null,
    read_at      timestamptz,                  -- last time that it worked
    memory       jsonb,
    primary key (platform, job)
);
create index platform_poll_due on platform_poll (due_at);
