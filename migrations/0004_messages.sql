-- Links that have gone wrong and dead letters: seen, tried again, replayed.

alter table peer drop constraint peer_link_check;
alter table peer add constraint peer_link_check
    check (link in ('provisioned', 'registering', 'registered', 'online', 'offline', 'broken',
                    'unregistered', 'failed'));

-- Why the link failed or broke; kept until it is well again.
alter table peer add column trouble text;
-- When the remedy for a refused credential was begun, and when the peer accepted it after that.
alter table peer add column refused_at timestamptz;
alter table peer add column accepted_at timestamptz;
-- A broken link is tried again at this time.
alter table peer add column repair_at timestamptz;
-- When the peer took the Register of ours that is outstanding.
alter table peer add column register_taken_at timestamptz;

create index peer_repair on peer (repair_at) where link = 'broken';
create index peer_unanswered on peer (register_taken_at) where link = 'registering';

create index outbox_dead on outbox (peer_id, id) where outcome in ('refused', 'expired');
create index event_user on event (user_id, id);

-- Silence ends a broken link as well.
drop index peer_going_offline;
create index peer_going_offline on peer (offline_at) where link in ('online', 'broken');
