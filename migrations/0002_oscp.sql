-- OSCP whole: what passing messages on and registering by ourselves must remember.

-- A message that passes on what another peer sent may keep that peer's X-Request-ID
-- (`forward-request-id`), so ids of ours are unique per receiver, as X-Request-IDs are.
alter table outbox drop constraint outbox_request_id_key;
alter table outbox add constraint outbox_peer_id_request_id_key unique (peer_id, request_id);

-- Whose message it passes on, and its X-Request-ID there: the receiver's answers are mapped back.
alter table outbox add column sender_id bigint;
alter table outbox add column sender_request_id text;
update outbox as o
   set sender_id = f.peer_id, sender_request_id = f.request_id
  from forecast as f
 where f.id = o.forecast_id and o.operation = 'update_group_capacity_forecast';

-- Our own first Register that the peer has not answered with its own yet: its X-Request-ID, and
-- the token in it.
alter table peer add column register_id text;
alter table peer add column register_token_sha256 bytea;

-- The peer behind a bearer token of the configured issuer; never two.
create unique index peer_jwt_subject on peer ((service_props ->> 'jwt-subject'))
    where service_props ->> 'jwt-subject' is not null;
