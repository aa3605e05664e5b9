-- MQTT out: who publishes, and what stands retained at the broker.

-- One daemon publishes at a time, so that messages leave in the order of their ids.
drop index publication_leased;
alter table publication drop column leased_until;
alter table publication add column retain boolean;  -- null: as configured; true: of the tree below
create index publication_retain on publication (topic) where retain;

create table publisher (
    only_one     boolean primary key default true check (only_one),
    holder       text not null,
    leased_until timestamptz not null
);

-- What the broker is to hold for those who come later, topic by topic, under one instance's name.
create table retained (
    instance text not null,
    topic    text not null,
    payload  bytea not null,
    primary key (instance, topic)
);
