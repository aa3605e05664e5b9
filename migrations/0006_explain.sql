-- What was sent because of an envelope is asked for, and found when an old envelope is dropped.
create index device_command_envelope on device_command (envelope_id, sent_at)
    where envelope_id is not null;
-- What happened last to one peer.
create index event_peer on event (peer_id, at) where peer_id is not null;
