-- Messages that come in segments: each is kept as it was received until the whole takes effect,
-- and remembered afterwards like any other X-Request-ID.
create table segment (
    peer_id        bigint not null references peer on delete cascade,
    request_id     text not null,
    correlation_id text,
    operation      text not null,
    index          integer not null,           -- from 1
    count          integer not null,
    body           bytea,                      -- null: the whole message has taken effect
    body_sha256    bytea not null,
    refused        boolean not null default false,  -- what a refused message has left
    received_at    timestamptz not null,
    primary key (peer_id, request_id)
);
alter table segment alter column body set storage external;  -- short-lived: compressing is waste
create index segment_waiting on segment (peer_id, received_at) where body is not null;
create index segment_received on segment (received_at);
