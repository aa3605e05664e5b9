-- Who holds a lease, so that what a killed daemon held is taken up at once.
alter table control_due add column leased_by text;
alter table device_state add column leased_by text;

-- Which daemons look after which devices, so that one that stops knows whether others go on.
create table device_steward (
    device   text not null,
    holder   text not null,                -- the daemon: host, process, when it was started
    until_at timestamptz not null,         -- it is taken for gone then, unless it says otherwise
    primary key (device, holder)
);
