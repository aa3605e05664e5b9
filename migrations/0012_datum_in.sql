-- Datum that were refused: one example per source, for the operator.
create table refused_datum (
    door        text not null,
    source      text not null,                 -- an MQTT topic, or who sent it
    user_id     bigint,                        -- whose it would be; null: nobody's
    outcome     text not null,
    reason      text not null,
    head        bytea not null,                -- its first bytes
    size        integer not null,              -- bytes
    count       bigint not null,
    first_at    timestamptz not null,
    last_at     timestamptz not null,
    primary key (door, source)
);
create index refused_datum_last on refused_datum (last_at);

-- To check each datum's stream takes a third of the cost of keeping it, and datum are only written
-- for streams that were just looked up. What belongs to a stream still goes with it.
alter table datum drop constraint datum_stream_id_fkey;
create function forget_datum() returns trigger language plpgsql as $$
begin
    delete from datum as d using gone where d.stream_id = gone.id;
    return null;
end
$$;
create trigger forget_datum after delete on stream
    referencing old table as gone for each statement execute function forget_datum();
create function forget_all_datum() returns trigger language plpgsql as $$
begin
    truncate datum;
    return null;
end
$$;
create trigger forget_all_datum before truncate on stream
    for each statement execute function forget_all_datum();
