-- Lanes: what waits for a dead peer costs the others nothing, and a forecast is kept once.

-- One row per (peer, lane) that was ever used: when its first message may go, and whose hands it
-- is in. Messages of one lane go one after the other, so they need no due time of their own but
-- to be held back.
create table lane (
    peer_id      bigint not null references peer on delete cascade,
    name         text not null,
    due_at       timestamptz not null,         -- infinity: nothing waits
    leased_until timestamptz,
    failures     integer not null default 0,   -- in a row, of its first message
    primary key (peer_id, name)
) with (fillfactor = 70);
create index lane_due on lane (due_at);
insert into lane (peer_id, name, due_at)
select distinct on (peer_id, lane) peer_id, lane, due_at
  from outbox
 where settled_at is null
 order by peer_id, lane, id;

-- Peers that do not answer: one message at a time asks them whether they do again.
create table unreachable (
    peer_id  bigint primary key references peer on delete cascade,
    failures integer not null,
    due_at   timestamptz not null
);

drop index outbox_due;
alter table outbox drop column leased_until;
alter table outbox alter column body drop not null;  -- null: that of the forecast it passes on
alter table outbox set (fillfactor = 80);
create index outbox_expiring on outbox (expires_at)
    where settled_at is null and expires_at is not null;
create index outbox_forecast on outbox (forecast_id) where forecast_id is not null;

-- The blocks of a forecast are in its body; `open` until nothing of it can matter any more.
drop table forecast_block;
drop index forecast_group;
alter table forecast add column open boolean not null default true;
alter table forecast alter column body set storage external;
create index forecast_open on forecast (group_id) where open;
create index forecast_received on forecast (group_id, received_at);

-- Deleted by age alone, and written at every message.
drop index message_in_received;
create index message_in_received on message_in using brin (received_at);

-- When the envelope in force is going to be another one, as far as forecasts tell.
alter table control_due add column until_at timestamptz;
